//! Manifests: written, read back without a catalog, and not believed when they do not hold.

use std::collections::BTreeMap;

use super::mem::Mem;
use super::{Bench, path};
use crate::catalog::{Catalog, IntentKind, IntentStep, Published, Upon, Was};
use crate::chain::Span;
use crate::plan::{Baseline, Policy};
use crate::run::killpoint::in_thread::killed_at;
use crate::target::{
    Recorded, TargetView, accept, baseline, manifest, no_source, publish_file, remember, settle, survey,
    sweep,
};

const NAME: &str = "host@c_20240101_d01_00001.aiv";
const INCREMENT: &str = "host@c_20240101_d01_00001_i00003.aii";

fn written() -> Bench {
    let mut bench = Bench::new(Mem::atomic());
    bench.catalog = bench.catalog.with_signer(key(1));
    bench.publish(NAME, b"base", 3);
    let mut file = bench.stage(INCREMENT, b"one to three", 4, None);
    file.span = Some(Span { first: 1, last: 3 });
    publish_file(&bench.site(), &file).unwrap();
    assert_eq!(manifest::write_behind(&bench.site()).unwrap().written, 1);
    bench
}

fn without_catalog(bench: &Bench) -> Bench {
    with_key(bench, 1)
}

fn manifest_names(bench: &Bench) -> Vec<String> {
    let disk = bench.mem.disk();
    disk.files
        .keys()
        .filter(|p| manifest::parse_name(p).is_some())
        .map(|p| p.display().into_owned())
        .collect()
}

#[test]
fn a_lost_catalog_is_rebuilt_from_manifest_and_listing() {
    let bench = written();
    let fresh = without_catalog(&bench);
    let found = survey(&fresh.site()).unwrap();
    remember(&fresh.catalog, &found.learned).unwrap();
    let (then, now) = (bench.catalog.published().unwrap(), fresh.catalog.published().unwrap());
    assert_eq!(then.len(), now.len());
    for (path, old) in &then {
        let new = &now[path];
        assert_eq!((old.size, old.blake3, old.level), (new.size, new.blake3, new.level));
        assert_eq!((&old.recognised, &old.set, &old.image), (&new.recognised, &new.set, &new.image));
        assert_eq!(old.target_version, new.target_version);
    }
    assert_eq!(found.view.spans, BTreeMap::from([(path(INCREMENT), Span { first: 1, last: 3 })]));
    assert_eq!(fresh.catalog.spans().unwrap(), found.view.spans);
    // What a manifest told is not evidence that the source ever had it.
    assert_eq!(fresh.catalog.known_sources().unwrap(), []);
    // Nothing is written again, and nothing is read again.
    assert_eq!(manifest::write_behind(&fresh.site()).unwrap().written, 0);
    assert!(survey(&fresh.site()).unwrap().learned.files.is_empty());
}

#[test]
fn a_file_that_changed_after_its_manifest_is_not_taken_for_what_it_says() {
    let bench = written();
    bench.mem.put(&path(NAME), b"BASE", 9);
    let fresh = without_catalog(&bench);
    let found = survey(&fresh.site()).unwrap();
    let file = &found.view.files[&path(NAME)];
    assert!(file.recorded.as_ref().unwrap().touched(&file.entry));
}

#[test]
fn with_both_lost_files_are_there_and_unrecorded() {
    let bench = written();
    bench.mem.disk().files.retain(|p, _| manifest::parse_name(p).is_none());
    let found = survey(&without_catalog(&bench).site()).unwrap();
    assert_eq!(found.view.files.len(), 2);
    assert!(found.view.files.values().all(|f| f.recorded.is_none()));
}

#[test]
fn a_lost_manifest_is_not_missed_while_the_catalog_is_there() {
    let bench = written();
    bench.mem.disk().files.retain(|p, _| manifest::parse_name(p).is_none());
    let found = survey(&bench.site()).unwrap();
    remember(&bench.catalog, &found.learned).unwrap();
    assert!(found.view.files.values().all(|f| f.recorded.is_some()));
    assert_eq!(manifest::write_behind(&bench.site()).unwrap().written, 1);
    assert_eq!(manifest_names(&bench).len(), 1);
}

#[test]
fn hostile_and_damaged_manifests_are_ignored_with_a_notice() {
    let good = written();
    let name = manifest_names(&good).pop().unwrap();
    let bytes = good.mem.content(&path(&name)).unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    let resealed = |body: &str| {
        let digest = blake3::hash(body.as_bytes()).to_hex();
        format!("{{\"offsite-manifest\":1,\"blake3\":\"{digest}\",\"bytes\":{}}}\n{body}", body.len())
    };
    let body = text.split_once('\n').unwrap().1;
    let mut flipped = bytes.clone();
    let at = flipped.len() - 9;
    flipped[at] ^= 1;
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("a flipped bit", flipped),
        ("cut off", bytes[..bytes.len() - 5].to_vec()),
        ("no header", b"x".repeat(5000)),
        ("empty", Vec::new()),
        ("traversal", resealed(&body.replace(NAME, "../../etc/passwd")).into_bytes()),
        ("absolute", resealed(&body.replace(NAME, "/etc/passwd")).into_bytes()),
        ("own name", resealed(&body.replace(NAME, "offsite-target")).into_bytes()),
        ("another set", resealed(&body.replace("\"set\":\"set\"", "\"set\":\"xxx\"")).into_bytes()),
        ("another sequence", resealed(&body.replace("\"sequence\":1", "\"sequence\":7")).into_bytes()),
        ("a span backwards", resealed(&body.replace("\"first\":1", "\"first\":9")).into_bytes()),
        ("a short hash", resealed(&body.replace("\"blake3\":\"", "\"blake3\":\"00")).into_bytes()),
        ("a newer version", text.replace("\"offsite-manifest\":1", "\"offsite-manifest\":2").into_bytes()),
    ];
    for (what, bytes) in hostile {
        assert_ne!(bytes, text.as_bytes(), "{what}: nothing was changed");
        let bench = written();
        bench.mem.put(&path(&name), &bytes, 1);
        let fresh = without_catalog(&bench);
        let found = survey(&fresh.site()).unwrap();
        assert_eq!(found.notices.len(), 1, "{what}: {:?}", found.notices);
        assert!(found.view.files.values().all(|f| f.recorded.is_none()), "{what}");
        // A catalog that knows better writes it anew.
        let higher = name.replace(".0000000001", ".0000000002");
        bench.mem.put(&path(&higher), &bytes, 1);
        let found = survey(&bench.site()).unwrap();
        remember(&bench.catalog, &found.learned).unwrap();
        assert_eq!(manifest::write_behind(&bench.site()).unwrap().written, 1, "{what}");
        let again = survey(&without_catalog(&bench).site()).unwrap();
        assert!(again.view.files.values().all(|f| f.recorded.is_some()), "{what}");
        assert_eq!(again.notices, Vec::new(), "{what}");
    }
}

#[test]
fn the_highest_valid_generation_wins_and_a_damaged_one_falls_back() {
    let bench = written();
    bench.publish("host@c_20240101_d01_00001_i00004.aii", b"four", 5);
    assert_eq!(manifest::write_behind(&bench.site()).unwrap().written, 1);
    let names = manifest_names(&bench);
    assert_eq!(names.len(), 2);
    let count = |bench: &Bench| survey(&without_catalog(bench).site()).unwrap().learned.files.len();
    assert_eq!(count(&bench), 3);
    bench.mem.put(&path(&names[1]), b"torn", 1);
    assert_eq!(count(&bench), 2);
}

#[test]
fn two_manifests_that_claim_one_file_are_both_not_believed() {
    let bench = written();
    let mut file = bench.catalog.published_of_set("set").unwrap().remove(0);
    file.record.set = "other".into();
    let liar = without_catalog(&bench);
    liar.catalog.record(&[file.clone()]).unwrap();
    manifest::write_behind(&liar.site()).unwrap();
    let found = survey(&without_catalog(&bench).site()).unwrap();
    assert!(found.view.files[&file.path].recorded.is_none());
    assert_eq!(found.notices.len(), 1, "{:?}", found.notices);
}

#[test]
fn older_generations_go_and_an_empty_set_leaves_none() {
    let bench = written();
    for n in 4..9 {
        bench.publish(&format!("host@c_20240101_d01_00001_i0000{n}.aii"), b"more", 5);
        manifest::write_behind(&bench.site()).unwrap();
        assert!(manifest_names(&bench).len() <= 2);
    }
    let paths: Vec<_> = bench.catalog.published().unwrap().into_keys().collect();
    bench.catalog.forget(&paths).unwrap();
    manifest::write_behind(&bench.site()).unwrap();
    assert_eq!(manifest_names(&bench), Vec::<String>::new());
    bench.publish(NAME, b"base", 3);
    assert_eq!(manifest::write_behind(&bench.site()).unwrap().written, 1);
    assert_eq!(manifest_names(&bench).len(), 1);
}

#[test]
fn a_manifest_write_killed_anywhere_leaves_a_valid_one_and_no_debris() {
    for make in [Mem::atomic, Mem::plain] {
        for at in 1.. {
            let bench = Bench::new(make());
            bench.publish(NAME, b"base", 3);
            manifest::write_behind(&bench.site()).unwrap();
            bench.publish(INCREMENT, b"three", 4);
            manifest::write_behind(&bench.site()).unwrap();
            bench.publish("host@c_20240101_d01_00001_i00004.aii", b"four", 4);
            let done = killed_at(at, || manifest::write_behind(&bench.site()).unwrap()).is_some();
            let known = survey(&without_catalog(&bench).site()).unwrap().learned.files.len();
            assert!(known == 2 || known == 3, "at {at}: {known}");
            settle(&bench.site(), &no_source).unwrap();
            let found = survey(&bench.site()).unwrap();
            remember(&bench.catalog, &found.learned).unwrap();
            sweep::sweep(&bench.site(), &found, &|_| false).unwrap();
            manifest::write_behind(&bench.site()).unwrap();
            assert_eq!(survey(&without_catalog(&bench).site()).unwrap().learned.files.len(), 3, "at {at}");
            assert!(bench.mem.disk().staged.is_empty(), "at {at}");
            assert!(manifest_names(&bench).len() <= 3);
            assert_eq!(bench.catalog.intents().unwrap(), []);
            if done {
                assert!(at > 6);
                break;
            }
        }
    }
}

#[test]
fn a_baseline_survives_the_catalog() {
    let bench = written();
    let kept = Baseline { images: [path(NAME)].into(), taken_ns: 7 };
    manifest::write_baseline(&bench.site(), Policy::NewSets, &kept).unwrap();
    assert!(!manifest::write_baseline(&bench.site(), Policy::NewSets, &kept).unwrap());
    let fresh = without_catalog(&bench);
    let found = survey(&fresh.site()).unwrap();
    assert_eq!(baseline(&fresh.catalog, &found.learned, Policy::NewSets).unwrap().as_ref(), Some(&kept));
    remember(&fresh.catalog, &found.learned).unwrap();
    assert_eq!(fresh.catalog.baseline(Policy::NewSets).unwrap(), Some(kept));
    assert_eq!(fresh.catalog.baseline(Policy::NewImages).unwrap(), None);
}

#[test]
fn a_change_made_while_a_manifest_is_written_is_not_taken_for_written() {
    let bench = written();
    bench.publish("host@c_20240101_d01_00001_i00004.aii", b"four", 5);
    let behind = bench.catalog.unwritten_sets().unwrap();
    bench.publish("host@c_20240101_d01_00001_i00005.aii", b"five", 5);
    bench.catalog.set_written(&behind[0].0, behind[0].1).unwrap();
    assert_eq!(bench.catalog.unwritten_sets().unwrap().len(), 1);
}

#[test]
fn a_manifest_agrees_by_time_and_where_a_listing_has_none_by_version() {
    use offsite_plugin_api::{Entry, Timestamp};
    let bench = Bench::new(Mem::atomic());
    let record = bench.publish(NAME, b"base", 3);
    let at = |ns| Some(Timestamp { ns, precision_ns: 1 });
    let tag = |v: &str| Some(v.to_owned());
    for (then, now, agree) in [
        ((at(3), None), (at(3), None), true),
        ((at(3), None), (at(4), None), false),
        // Moved to another disk: new versions, the same times.
        ((at(3), tag("a")), (at(3), tag("b")), true),
        // Servers that keep the time where only a look at the single object shows it.
        ((at(3), tag("a")), (None, tag("a")), true),
        ((at(3), tag("a")), (None, tag("b")), false),
        ((at(3), None), (None, tag("b")), false),
        ((None, None), (None, tag("b")), true),
    ] {
        let mut record = record.clone();
        (record.target_mtime, record.target_version) = then.clone();
        let file = crate::catalog::Published { path: path(NAME), source: None, record, span: None };
        let mut entry = Entry::file(path(NAME), 4);
        (entry.mtime, entry.version) = now.clone();
        assert_eq!(manifest::agrees(&file, &entry), agree, "{then:?} {now:?}");
        entry.size = 5;
        assert!(!manifest::agrees(&file, &entry), "another size");
    }
}

fn key(of: u8) -> Option<manifest::Key> {
    Some(manifest::Key::new(&[of; 32], "daily", "nas"))
}

/// Written with a key, as every run does.
fn signed() -> Bench {
    let mut bench = Bench::new(Mem::atomic());
    bench.catalog = Catalog::in_memory().unwrap().with_signer(key(1));
    bench.publish(NAME, b"base", 3);
    let mut file = bench.stage(INCREMENT, b"three", 4, None);
    file.upon = Upon { parent: Some(path(NAME)), ..Upon::default() };
    publish_file(&bench.site(), &file).unwrap();
    assert_eq!(manifest::write_behind(&bench.site()).unwrap().written, 1);
    bench
}

fn with_key(bench: &Bench, of: u8) -> Bench {
    let catalog = Catalog::in_memory().unwrap().with_signer(key(of));
    Bench { catalog, ..Bench::new(bench.mem.clone()) }
}

#[test]
fn a_signed_manifest_brings_everything_back_parents_included() {
    let bench = signed();
    let fresh = with_key(&bench, 1);
    let found = survey(&fresh.site()).unwrap();
    remember(&fresh.catalog, &found.learned).unwrap();
    assert_eq!(found.notices, []);
    assert_eq!(fresh.catalog.vouched().unwrap(), [].into());
    let parent = fresh.catalog.published_at(&path(INCREMENT)).unwrap().unwrap().parent.unwrap();
    assert_eq!((parent.path, parent.blake3), (path(NAME), *blake3::hash(b"base").as_bytes()));
    assert_eq!(manifest::write_behind(&fresh.site()).unwrap().written, 0, "nothing is written anew");
}

#[test]
fn after_a_loss_of_the_key_a_manifest_makes_known_and_proves_nothing() {
    let bench = signed();
    let fresh = with_key(&bench, 2);
    let found = survey(&fresh.site()).unwrap();
    remember(&fresh.catalog, &found.learned).unwrap();
    assert_eq!(found.notices.len(), 1, "{:?}", found.notices);
    assert!(found.view.files.values().all(|f| f.recorded.is_some()), "nothing is sent again");
    let unproven = |view: &TargetView| view.chains().sets[0].images.iter().all(|i| i.unproven);
    assert!(unproven(&found.view));
    // Not with the next run either, and still one notice.
    let found = survey(&fresh.site()).unwrap();
    assert!(unproven(&found.view) && found.notices.len() == 1);
    // What is compared is known; the rest when the user says so.
    let base = fresh.catalog.published_of_set("set").unwrap().remove(0);
    fresh.catalog.adopt(&base, &Upon::default()).unwrap();
    assert_eq!(fresh.catalog.vouched().unwrap(), [path(INCREMENT)].into());
    // Not while it is between old and new.
    let was = Was::of(&found.view.files.get(&path(INCREMENT)).unwrap().entry);
    let deletion = [IntentStep::Delete { path: path(INCREMENT), was }];
    let open = fresh.catalog.begin_intent(IntentKind::Delete, "set", &deletion).unwrap();
    for images in [vec![], vec![path(INCREMENT)]] {
        let error = accept(&fresh.site(), &images).unwrap_err().to_string();
        assert!(error.contains("was interrupted") && error.contains("'offsite run'"), "{error}");
    }
    assert_eq!(fresh.catalog.vouched().unwrap(), [path(INCREMENT)].into());
    fresh.catalog.close_intent(open).unwrap();
    assert_eq!(accept(&fresh.site(), &[]).unwrap(), [path(INCREMENT)]);
    let found = survey(&fresh.site()).unwrap();
    assert!(found.notices.is_empty() && found.view.chains().sets[0].images.iter().all(|i| !i.unproven));
}

/// Increments 1 and 2 are deleted there, and a manifest is planted that says that 3 holds them.
#[test]
fn a_planted_span_is_not_believed_and_the_manifest_is_written_anew() {
    for mac in [None, Some(2), Some(1)] {
        let mut bench = Bench::new(Mem::atomic());
        bench.catalog = Catalog::in_memory().unwrap().with_signer(key(1));
        let third = "host@c_20240101_d01_00001_i00003.aii";
        bench.publish(NAME, b"base", 3);
        for n in 1..4 {
            bench.publish(&format!("host@c_20240101_d01_00001_i0000{n}.aii"), b"more", 3 + n);
        }
        manifest::write_behind(&bench.site()).unwrap();
        // The forger reads what is there and writes the next generation; he signs with nothing, with a key of his own, or as
        // if with ours.
        let forger = Catalog::in_memory().unwrap().with_signer(mac.filter(|of| *of != 1).and_then(key));
        let forger = Bench { catalog: forger, ..Bench::new(bench.mem.clone()) };
        remember(&forger.catalog, &survey(&forger.site()).unwrap().learned).unwrap();
        let mut file = forger.catalog.published_of_set("set").unwrap().remove(3);
        file.span = Some(Span { first: 1, last: 3 });
        forger.catalog.record(&[file]).unwrap();
        assert_eq!(manifest::write_behind(&forger.site()).unwrap().written, 1);
        if mac == Some(1) {
            let name = manifest_names(&bench).pop().unwrap();
            let text = String::from_utf8(bench.mem.content(&path(&name)).unwrap()).unwrap();
            let id = key(1).unwrap().id().to_owned();
            let zero = "0".repeat(64);
            let text =
                text.replacen("\"bytes\"", &format!("\"key\":\"{id}\",\"mac\":\"{zero}\",\"bytes\""), 1);
            bench.mem.put(&path(&name), text.as_bytes(), 1);
        }
        for n in [1, 2] {
            bench.mem.disk().files.remove(&path(&format!("host@c_20240101_d01_00001_i0000{n}.aii")));
        }
        let found = survey(&bench.site()).unwrap();
        assert_eq!(found.view.spans, BTreeMap::new(), "{mac:?}");
        let images = &found.view.chains().sets[0].images;
        let image = images.iter().find(|i| i.id == path(third)).unwrap();
        assert!(!image.restorable, "{mac:?}: {image:?}");
        assert_eq!(found.notices.len(), usize::from(mac == Some(1)), "{:?}", found.notices);
        remember(&bench.catalog, &found.learned).unwrap();
        assert_eq!(manifest::write_behind(&bench.site()).unwrap().written, 1, "{mac:?}");
        let again = survey(&with_key(&bench, 1).site()).unwrap();
        assert_eq!(again.view.spans, BTreeMap::new(), "{mac:?}");
        assert_eq!(again.notices, [], "{mac:?}");
    }
}

#[test]
fn manifests_that_nobody_signed_are_signed_in_passing_a_bounded_number_at_a_time() {
    let mut bench = Bench::new(Mem::atomic());
    for n in 0..100 {
        let mut file = bench.stage(&format!("v{n:02}@c_20240101_d01_00001.aiv"), b"base", 3, None);
        file.record.set = format!("set {n}");
        publish_file(&bench.site(), &file).unwrap();
    }
    assert_eq!(manifest::write_behind(&bench.site()).unwrap().written, 100);
    bench.catalog = bench.catalog.with_signer(key(1));
    assert_eq!(manifest::write_behind(&bench.site()).unwrap().written, 64);
    assert_eq!(manifest::write_behind(&bench.site()).unwrap().written, 36);
    assert_eq!(manifest::write_behind(&bench.site()).unwrap().written, 0);
    let found = survey(&with_key(&bench, 1).site()).unwrap();
    assert!(found.notices.is_empty() && found.view.vouched.is_empty());
}

/// An older generation put back in place of the newer ones.
#[test]
fn a_replayed_generation_is_not_read_and_written_over() {
    let bench = signed();
    let first = manifest_names(&bench).pop().unwrap();
    let old = bench.mem.content(&path(&first)).unwrap();
    for n in 4..6 {
        bench.publish(&format!("host@c_20240101_d01_00001_i0000{n}.aii"), b"more", 5);
        manifest::write_behind(&bench.site()).unwrap();
    }
    bench.mem.disk().files.retain(|p, _| manifest::parse_name(p).is_none());
    bench.mem.put(&path(&first), &old, 1);
    let found = survey(&bench.site()).unwrap();
    remember(&bench.catalog, &found.learned).unwrap();
    assert_eq!(manifest::write_behind(&bench.site()).unwrap().written, 1);
    assert_eq!(survey(&with_key(&bench, 1).site()).unwrap().learned.files.len(), 4);
    // Nor under a newer name.
    let newest = manifest_names(&bench).pop().unwrap();
    let (name, sequence) = newest.rsplit_once('.').unwrap();
    let next = format!("{name}.{:010}", sequence.parse::<u64>().unwrap() + 1);
    bench.mem.put(&path(&next), &old, 1);
    let found = survey(&bench.site()).unwrap();
    assert_eq!(found.notices.len(), 1, "{:?}", found.notices);
}

fn other(bench: &Bench, name: &str) {
    let mut file = bench.stage(name, name.as_bytes(), 3, None);
    file.record.set = String::new();
    publish_file(&bench.site(), &file).unwrap();
}

#[test]
fn other_files_have_a_manifest_for_each_folder() {
    let bench = Bench::new(Mem::atomic());
    for name in ["a.txt", "x/b.txt", "x/c.txt", "x/y/d.txt"] {
        other(&bench, name);
    }
    assert_eq!(manifest::write_behind(&bench.site()).unwrap().written, 3);
    let found = survey(&without_catalog(&bench).site()).unwrap();
    assert_eq!(found.learned.files.len(), 4);
    assert!(found.learned.files.iter().all(|f| f.record.set.is_empty()));
    // A change in one folder writes that folder's alone.
    other(&bench, "x/y/e.txt");
    assert_eq!(manifest::write_behind(&bench.site()).unwrap().written, 1);
    let gone = [path("x/b.txt"), path("x/c.txt")];
    for path in &gone {
        bench.mem.disk().files.remove(path);
    }
    bench.catalog.forget(&gone).unwrap();
    assert_eq!(manifest::write_behind(&bench.site()).unwrap().written, 1);
    assert_eq!(survey(&without_catalog(&bench).site()).unwrap().learned.files.len(), 3);
}

#[test]
fn what_is_too_much_for_one_manifest_is_written_in_pieces_that_go_with_it() {
    let mut bench = Bench::new(Mem::atomic());
    bench.catalog = bench.catalog.with_signer(key(1));
    for n in 0..40 {
        bench.publish(&format!("host@c_20240101_d01_00001_i{n:05}.aii"), b"more", 5);
    }
    let count = || survey(&without_catalog(&bench).site()).unwrap().learned.files.len();
    let write = |limit| manifest::write_at(&bench.site(), "set", 0, limit).unwrap();
    assert!(write(4 << 10));
    let many = manifest_names(&bench).len();
    assert!(many > 3, "{many}");
    assert_eq!(count(), 40);
    assert!(!write(4 << 10), "nothing changed");
    // A damaged piece is noticed, and it alone is written anew.
    let name = manifest_names(&bench).pop().unwrap();
    bench.mem.disk().files.remove(&path(&name));
    let found = survey(&bench.site()).unwrap();
    remember(&bench.catalog, &found.learned).unwrap();
    assert!(write(4 << 10));
    assert_eq!((count(), manifest_names(&bench).len()), (40, many));
    let gone: Vec<_> = bench.catalog.published().unwrap().into_keys().skip(5).collect();
    for path in &gone {
        bench.mem.disk().files.remove(path);
    }
    bench.catalog.forget(&gone).unwrap();
    assert!(write(4 << 10));
    assert_eq!(count(), 5);
}

/// 17,000 files that no format knows, with long names, came to more than 64 MiB.
#[test]
fn a_folder_whose_manifest_would_be_too_large_is_no_dead_end() {
    let bench = Bench::new(Mem::atomic());
    let folder = vec!["d".repeat(250); 15].join("/");
    let template = bench.stage("a.txt", b"a", 3, None).record;
    let files: Vec<Published> = (0..9_000)
        .map(|n| {
            let path = path(&format!("{folder}/{n:0200}.txt"));
            let record = Recorded { set: String::new(), image: path.clone(), ..template.clone() };
            Published { source: Some(path.clone()), path, record, span: None }
        })
        .collect();
    bench.catalog.record(&files).unwrap();
    let done = manifest::write_behind(&bench.site()).unwrap();
    assert!(done.failed.is_empty() && done.written == 1, "{done:?}");
    let sizes = manifest_names(&bench).into_iter().map(|n| bench.mem.content(&path(&n)).unwrap().len());
    let sizes: Vec<_> = sizes.collect();
    assert!(sizes.len() > 4 && sizes.iter().sum::<usize>() > 64 << 20, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size < 20 << 20), "{sizes:?}");
}

#[test]
fn a_manifest_that_fails_is_told_and_the_others_are_written() {
    let bench = Bench::new(Mem::atomic());
    for set in ["a", "b", "c"] {
        let mut file = bench.stage(&format!("{set}@c_20240101_d01_00001.aiv"), b"base", 3, None);
        file.record.set = set.to_owned();
        publish_file(&bench.site(), &file).unwrap();
    }
    bench.mem.disk().refused.insert(manifest::set_hash("b"));
    let done = manifest::write_behind(&bench.site()).unwrap();
    assert_eq!(done.written, 2);
    assert_eq!(done.failed.iter().map(|(set, _)| set.as_str()).collect::<Vec<_>>(), ["b"]);
    bench.mem.disk().refused.clear();
    let done = manifest::write_behind(&bench.site()).unwrap();
    assert_eq!((done.written, done.failed.len()), (1, 0));
}
