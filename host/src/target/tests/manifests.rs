//! Manifests: written, read back without a catalog, and not believed when they do not hold.

use std::collections::BTreeMap;

use super::mem::Mem;
use super::{Bench, path};
use crate::catalog::Catalog;
use crate::chain::Span;
use crate::plan::{Baseline, Policy};
use crate::run::killpoint::in_thread::killed_at;
use crate::target::{baseline, manifest, no_source, publish_file, remember, settle, survey, sweep};

const NAME: &str = "host@c_20240101_d01_00001.aiv";
const INCREMENT: &str = "host@c_20240101_d01_00001_i00003.aii";

fn written() -> Bench {
    let bench = Bench::new(Mem::atomic());
    bench.publish(NAME, b"base", 3);
    let mut file = bench.stage(INCREMENT, b"one to three", 4, None);
    file.span = Some(Span { first: 1, last: 3 });
    publish_file(&bench.site(), &file).unwrap();
    assert_eq!(manifest::write_behind(&bench.site()).unwrap(), 1);
    bench
}

fn without_catalog(bench: &Bench) -> Bench {
    Bench { catalog: Catalog::in_memory().unwrap(), ..Bench::new(bench.mem.clone()) }
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
    assert_eq!(manifest::write_behind(&fresh.site()).unwrap(), 0);
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
    assert_eq!(manifest::write_behind(&bench.site()).unwrap(), 1);
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
        assert_eq!(manifest::write_behind(&bench.site()).unwrap(), 1, "{what}");
        let again = survey(&without_catalog(&bench).site()).unwrap();
        assert!(again.view.files.values().all(|f| f.recorded.is_some()), "{what}");
        assert_eq!(again.notices, Vec::new(), "{what}");
    }
}

#[test]
fn the_highest_valid_generation_wins_and_a_damaged_one_falls_back() {
    let bench = written();
    bench.publish("host@c_20240101_d01_00001_i00004.aii", b"four", 5);
    assert_eq!(manifest::write_behind(&bench.site()).unwrap(), 1);
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
    assert_eq!(manifest::write_behind(&bench.site()).unwrap(), 1);
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

/// Somebody who can write to the target deletes increments 1 and 2 and plants a manifest that says that 3 holds them.
#[test]
fn what_the_catalog_knows_beats_what_a_planted_manifest_says() {
    let increment = |n: u64| format!("host@c_20240101_d01_00001_i{n:05}.aii");
    let bench = Bench::new(Mem::atomic());
    bench.publish(NAME, b"base", 3);
    for n in 1..=3 {
        bench.publish(&increment(n), format!("increment {n}").as_bytes(), 3 + n as i64);
    }
    assert_eq!(manifest::write_behind(&bench.site()).unwrap(), 1);
    // By another installation's hand, which knows how a manifest is written.
    let forger = without_catalog(&bench);
    remember(&forger.catalog, &survey(&forger.site()).unwrap().learned).unwrap();
    let last = path(&increment(3));
    let record = forger.catalog.published_at(&last).unwrap().unwrap();
    let span = Some(Span { first: 1, last: 3 });
    forger.catalog.record(&[crate::catalog::Published { path: last.clone(), source: None, record, span }]).unwrap();
    assert_eq!(manifest::write_behind(&forger.site()).unwrap(), 1);
    for n in [1, 2] {
        bench.mem.disk().files.remove(&path(&increment(n))).unwrap();
    }

    for _ in 0..2 {
        let found = survey(&bench.site()).unwrap();
        remember(&bench.catalog, &found.learned).unwrap();
        assert_eq!(found.view.spans, BTreeMap::new());
        let chains = found.view.chains();
        let lost = chains.sets.iter().flat_map(|s| &s.images).find(|i| i.id == last).unwrap();
        assert!(!lost.restorable && lost.evidence.is_none(), "{lost:?}");
        assert_eq!(found.view.gone.len(), 2, "damage: 1 and 2 are sent again");
    }
    assert_eq!(bench.catalog.spans().unwrap(), BTreeMap::new());
}
