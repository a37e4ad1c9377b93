//! A kill at every point of every act, and another kill at every point of settling, leave a lawful target; repeating the
//! act then finishes it.

use proptest::prelude::*;

use super::mem::Mem;
use super::{Bench, path};
use crate::catalog::Was;
use crate::error::Result;
use crate::run::killpoint::in_thread::killed_at;
use crate::target::{
    Delete, Publish, Settled, announce, delete_files, no_source, publish_announced, publish_file,
    publish_group, replace_file, settle, survey, sweep, withdraw,
};

type Make = fn() -> Mem;
type Act<'a> = &'a dyn Fn(&Bench, &[Publish]) -> Result<()>;
const KINDS: [(&str, Make); 3] =
    [("atomic", Mem::atomic), ("swapping", Mem::swapping), ("plain", Mem::plain)];

const OLD: &[u8] = b"the old content";
const NEW: &[u8] = b"the new content, longer";

/// A name with its old and its new content.
type Named<'a> = (&'a str, Option<&'a [u8]>, Option<&'a [u8]>);

/// At this instant: every name holds the old or the new content whole, or nothing where that is lawful.
fn assert_lawful(bench: &Bench, names: &[Named<'_>], settled: bool) {
    for (name, old, new) in names {
        let content = bench.mem.content(&path(name));
        let content = content.as_deref();
        let in_swap = !settled
            && old.is_some()
            && new.is_some()
            && bench.mem.capabilities.replace == offsite_plugin_api::Replace::None;
        let aside = || bench.mem.disk().files.values().any(|f| Some(f.bytes.as_slice()) == *old);
        assert!(
            content == *old || content == *new || (content.is_none() && in_swap && aside()),
            "{name} holds {content:?}"
        );
    }
    if settled {
        bench.assert_records_true();
        assert_eq!(bench.catalog.intents().unwrap(), [], "an intent is open after settling");
        let own = |p: &offsite_plugin_api::TargetPath| p.as_bytes().ends_with(b".old");
        assert!(!bench.mem.disk().files.keys().any(own), "a side name is left after settling");
    }
}

/// What changed is recorded, or an intent says that it was about to.
fn assert_journalled(bench: &Bench, names: &[Named<'_>]) {
    for (name, old, new) in names {
        let changed = bench.mem.content(&path(name)).as_deref() != *old;
        let hash = new.map(|content| *blake3::hash(content).as_bytes());
        let recorded = bench.catalog.published_at(&path(name)).unwrap().and_then(|r| r.blake3) == hash;
        let intended = !bench.catalog.intents_at(&path(name)).unwrap().is_empty();
        assert!(!changed || recorded || intended, "{name} changed without an intent");
        assert!(changed || !recorded || old == new || new.is_none(), "{name} is recorded before it changed");
    }
}

/// Runs `act` killed at every point; after each kill settles, killed at every point of that too; then repeats.
fn at_every_point(
    name: &str,
    prepare: &dyn Fn() -> (Bench, Vec<Publish>),
    act: Act<'_>,
    names: &[Named<'_>],
) {
    let mut kills = 0;
    for first in 1.. {
        let mut second = 0;
        loop {
            let (bench, files) = prepare();
            if killed_at(first, || act(&bench, &files)).is_some_and(|r| r.is_ok()) {
                assert!(kills > 8, "{name}: only {kills} kills");
                return;
            }
            kills += 1;
            assert_lawful(&bench, names, false);
            assert_journalled(&bench, names);
            if second > 0 {
                let done = killed_at(second, || settle(&bench.site(), &no_source).unwrap()).is_some();
                assert_lawful(&bench, names, false);
                if done {
                    break;
                }
            }
            settle(&bench.site(), &no_source).unwrap();
            assert_lawful(&bench, names, true);
            assert_eq!(settle(&bench.site(), &no_source).unwrap(), Settled::default(), "settled twice");
            again(&bench, &files, act);
            for (name, _, new) in names {
                assert_eq!(bench.mem.content(&path(name)).as_deref(), *new, "{name} after repeating");
            }
            bench.assert_records_true();
            bench.assert_clean();
            second += 1;
        }
    }
}

/// The next run: plans from what is there, stages again what is not staged any more.
fn again(bench: &Bench, files: &[Publish], act: Act<'_>) {
    let found = survey(&bench.site()).unwrap();
    sweep::sides(&bench.site(), &found).unwrap();
    let mut left = Vec::new();
    for file in files {
        let name = file.path.display().into_owned();
        let recorded = bench.catalog.published_at(&file.path).unwrap();
        if recorded.is_some_and(|r| r.blake3 == file.record.blake3) && bench.mem.content(&file.path).is_some()
        {
            continue;
        }
        let mut file = file.clone();
        file.before = bench.was(&name);
        if bench.catalog.staged_at(&file.path).unwrap().is_none() {
            let content = crate_content(&file);
            if bench.mem.content(&file.path).as_deref() == Some(&content) {
                // Unrecorded, and a read-back shows that it is the file: adopted.
                let mut record = file.record.clone();
                record.target_mtime = file.before.as_ref().and_then(|w| w.mtime);
                bench
                    .catalog
                    .record(&[crate::catalog::Published {
                        path: file.path.clone(),
                        source: Some(file.path.clone()),
                        record,
                        span: None,
                    }])
                    .unwrap();
                continue;
            }
            let before = file.before.clone();
            file = bench.stage(&name, &content, file.record.source_mtime_ns, before);
        }
        left.push(file);
    }
    act(bench, &left).unwrap();
    sweep::sweep(&bench.site(), &survey(&bench.site()).unwrap(), &|_| false).unwrap();
}

fn crate_content(file: &Publish) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(file.record.size).unwrap()];
    file.source.read_at(0, &mut content).unwrap();
    content
}

#[test]
fn a_publish_killed_anywhere_shows_all_or_nothing_and_is_finished_without_sending_again() {
    for (kind, make) in KINDS {
        let prepare = || {
            let bench = Bench::new(make());
            let file = bench.stage("d/new.aiv", NEW, 5, None);
            (bench, vec![file])
        };
        let act = |bench: &Bench, files: &[Publish]| {
            files.iter().try_for_each(|f| publish_file(&bench.site(), f).map(drop))
        };
        at_every_point(kind, &prepare, &act, &[("d/new.aiv", None, Some(NEW))]);
    }
}

#[test]
fn an_announced_chain_killed_anywhere_shows_its_images_in_order() {
    let chain = ["d/a.aiv", "d/b.aii", "d/c.aii"];
    for (kind, make) in KINDS {
        let prepare = || {
            let bench = Bench::new(make());
            let files = chain.map(|name| bench.stage(name, NEW, 5, None)).to_vec();
            (bench, files)
        };
        let act = |bench: &Bench, files: &[Publish]| {
            let site = bench.site();
            let intents = announce(&site, files)?;
            for (at, (file, intent)) in files.iter().zip(&intents).enumerate() {
                // The rest is given up: withdrawn, and published alone after all.
                if at == 1 {
                    let rest: Vec<i64> = intents[1..].iter().flatten().copied().collect();
                    withdraw(&site, &rest)?;
                }
                match intent.filter(|_| at == 0) {
                    Some(intent) => drop(publish_announced(&site, file, intent)?),
                    None => drop(publish_file(&site, file)?),
                }
                let shown = chain.map(|name| bench.mem.content(&path(name)).is_some());
                assert!(shown.is_sorted_by(|a, b| a >= b), "{shown:?}");
            }
            Ok(())
        };
        at_every_point(kind, &prepare, &act, &chain.map(|name| (name, None, Some(NEW))));
        let act = |bench: &Bench, files: &[Publish]| {
            let site = bench.site();
            for (file, intent) in files.iter().zip(announce(&site, files)?) {
                match intent {
                    Some(intent) => drop(publish_announced(&site, file, intent)?),
                    None => drop(publish_file(&site, file)?),
                }
            }
            Ok(())
        };
        at_every_point(kind, &prepare, &act, &chain.map(|name| (name, None, Some(NEW))));
    }
}

#[test]
fn a_replacement_killed_anywhere_keeps_the_old_or_the_new_content() {
    for (kind, make) in KINDS {
        let prepare = || {
            let bench = Bench::new(make());
            bench.publish("image.aiv", OLD, 3);
            let file = bench.stage("image.aiv", NEW, 5, bench.was("image.aiv"));
            (bench, vec![file])
        };
        let act = |bench: &Bench, files: &[Publish]| {
            files.iter().try_for_each(|f| replace_file(&bench.site(), f).map(drop))
        };
        at_every_point(kind, &prepare, &act, &[("image.aiv", Some(OLD), Some(NEW))]);
    }
}

#[test]
fn a_repair_of_the_same_size_and_time_is_not_taken_for_done() {
    let damaged: &[u8] = b"the bad content, longer";
    assert_eq!(damaged.len(), NEW.len());
    for (kind, make) in KINDS {
        let prepare = || {
            let bench = Bench::new(make());
            bench.mem.put(&path("image.aiv"), damaged, 5);
            let file = bench.stage("image.aiv", NEW, 5, bench.was("image.aiv"));
            (bench, vec![file])
        };
        let act = |bench: &Bench, files: &[Publish]| {
            files.iter().try_for_each(|f| replace_file(&bench.site(), f).map(drop))
        };
        at_every_point(kind, &prepare, &act, &[("image.aiv", Some(damaged), Some(NEW))]);
    }
}

#[test]
fn a_group_killed_anywhere_ends_with_all_of_it() {
    for (kind, make) in KINDS {
        let prepare = || {
            let bench = Bench::new(make());
            bench.publish("a.aiv", OLD, 3);
            bench.publish("b.aii", OLD, 3);
            let files = vec![
                bench.stage("a.aiv", NEW, 5, bench.was("a.aiv")),
                bench.stage("b.aii", NEW, 5, bench.was("b.aii")),
                bench.stage("c.aii", NEW, 5, None),
            ];
            (bench, files)
        };
        let act = |bench: &Bench, files: &[Publish]| publish_group(&bench.site(), files).map(drop);
        at_every_point(
            kind,
            &prepare,
            &act,
            &[("a.aiv", Some(OLD), Some(NEW)), ("b.aii", Some(OLD), Some(NEW)), ("c.aii", None, Some(NEW))],
        );
    }
}

#[test]
fn a_group_that_began_to_show_is_finished_by_settling_alone() {
    for (kind, make) in KINDS {
        for at in 1.. {
            let bench = Bench::new(make());
            bench.publish("a.aiv", OLD, 3);
            bench.publish("b.aii", OLD, 3);
            let files = [
                bench.stage("a.aiv", NEW, 5, bench.was("a.aiv")),
                bench.stage("b.aii", NEW, 5, bench.was("b.aii")),
            ];
            let done = killed_at(at, || publish_group(&bench.site(), &files).unwrap()).is_some();
            settle(&bench.site(), &no_source).unwrap();
            let contents = (bench.mem.content(&path("a.aiv")), bench.mem.content(&path("b.aii")));
            let both = |c: &[u8]| (Some(c.to_vec()), Some(c.to_vec()));
            assert!(contents == both(OLD) || contents == both(NEW), "{kind} at {at}: {contents:?}");
            if done {
                assert_eq!(contents, both(NEW));
                break;
            }
        }
    }
}

#[test]
fn deleting_an_image_killed_anywhere_keeps_all_of_it_or_ends_with_none() {
    for (_, make) in KINDS {
        for at in 1.. {
            let bench = Bench::new(make());
            for name in ["image.aii", "image.aii.md5"] {
                bench.publish(name, OLD, 3);
            }
            let files: Vec<Delete> = ["image.aii", "image.aii.md5"]
                .map(|n| Delete { path: path(n), was: bench.was(n).unwrap() })
                .into();
            let done = killed_at(at, || delete_files(&bench.site(), "set", &files).unwrap()).is_some();
            // The anchor goes first: a side-car without it is not an image, an image without its side-car would be one.
            let there = |n: &str| bench.mem.content(&path(n)).is_some();
            assert!(there("image.aii.md5") || !there("image.aii"));
            settle(&bench.site(), &no_source).unwrap();
            assert_eq!(there("image.aii"), there("image.aii.md5"), "half an image is left at {at}");
            let recorded = bench.catalog.published().unwrap().len();
            assert_eq!(recorded, bench.mem.disk().files.len());
            assert_eq!(bench.catalog.intents().unwrap(), []);
            if done {
                assert_eq!(recorded, 0);
                break;
            }
        }
    }
}

#[test]
fn nothing_is_replaced_or_deleted_that_is_not_as_planned() {
    for (_, make) in KINDS {
        let bench = Bench::new(make());
        bench.publish("image.aiv", OLD, 3);
        let was = bench.was("image.aiv");
        bench.mem.put(&path("image.aiv"), b"somebody else's", 9);
        let file = bench.stage("image.aiv", NEW, 5, was.clone());
        assert!(replace_file(&bench.site(), &file).is_err());
        let delete = Delete { path: path("image.aiv"), was: was.unwrap() };
        assert!(delete_files(&bench.site(), "set", &[delete]).is_err());
        let absent = Publish { before: None, ..file };
        assert!(publish_file(&bench.site(), &absent).is_err());
        assert_eq!(bench.mem.content(&path("image.aiv")).as_deref(), Some(&b"somebody else's"[..]));
        assert_eq!(bench.catalog.intents().unwrap(), []);
        assert!(bench.catalog.staged_at(&path("image.aiv")).unwrap().is_some(), "the staging was lost");
    }
}

#[test]
fn an_open_swap_is_undone_where_the_server_may_have_lost_the_new_file() {
    let mut kills = 0;
    for at in 1.. {
        let mut mem = Mem::swapping();
        mem.capabilities.durable_checkpoints = false;
        let bench = Bench::new(mem);
        bench.publish("image.aiv", OLD, 3);
        let file = bench.stage("image.aiv", NEW, 5, bench.was("image.aiv"));
        if killed_at(at, || replace_file(&bench.site(), &file)).is_some() {
            break;
        }
        let gap = bench.mem.content(&path("image.aiv")).is_none();
        // The server fell over with the process.
        for staged in bench.mem.disk().staged.values_mut() {
            staged.bytes.fill(0);
        }
        settle(&bench.site(), &no_source).unwrap();
        let content = bench.mem.content(&path("image.aiv"));
        assert!(content.as_deref() == Some(OLD) || content.as_deref() == Some(NEW), "{at}: {content:?}");
        if gap {
            kills += 1;
            assert_eq!(content.as_deref(), Some(OLD), "{at}: what was lost was published");
            assert!(bench.catalog.staged_at(&path("image.aiv")).unwrap().is_some());
        }
    }
    assert!(kills > 0, "never killed in the gap");
}

/// Kills a replacement at every point and settles after it, killed at every point of that too. `lost`: the server fell
/// over with the process, and nothing of the new file had reached its disk. Gives how often the new file had the name.
fn settled_after_the_server_fell_over(make: Make, lost: bool) -> usize {
    let mut shown = 0;
    for first in 1.. {
        for second in 0.. {
            let mut mem = make();
            mem.capabilities.durable_checkpoints = false;
            let bench = Bench::new(mem);
            bench.publish("image.aiv", OLD, 3);
            let file = bench.stage("image.aiv", NEW, 5, bench.was("image.aiv"));
            if killed_at(first, || replace_file(&bench.site(), &file)).is_some() {
                return shown;
            }
            let content = || bench.mem.content(&path("image.aiv"));
            let aside = || bench.mem.disk().files.values().any(|f| f.bytes == OLD);
            let was_aside = aside();
            let is_new = content().as_deref() == Some(NEW);
            let recorded = bench.catalog.published_at(&path("image.aiv")).unwrap().unwrap().size;
            if lost && is_new && recorded != NEW.len() as u64 {
                bench.mem.disk().files.get_mut(&path("image.aiv")).unwrap().bytes.fill(0);
            }
            let done =
                second == 0 || killed_at(second, || settle(&bench.site(), &no_source).unwrap()).is_some();
            assert!(aside() || !was_aside || content().as_deref() == Some(NEW), "the only copy is gone");
            settle(&bench.site(), &no_source).unwrap();
            bench.assert_records_true();
            assert_eq!(bench.catalog.intents().unwrap(), []);
            if was_aside && is_new {
                shown += 1;
                let wanted = if lost { OLD } else { NEW };
                assert_eq!(content().as_deref(), Some(wanted), "killed at {first}, then at {second}");
            }
            if second > 0 && done {
                break;
            }
        }
    }
    shown
}

#[test]
fn after_an_interruption_the_old_file_goes_only_when_the_new_one_was_read_back() {
    for (kind, make) in KINDS {
        for lost in [true, false] {
            let shown = settled_after_the_server_fell_over(make, lost);
            let swaps = make().capabilities.replace == offsite_plugin_api::Replace::None;
            assert!(!swaps || shown > 4, "{kind}: only {shown} kills between the new name and the deletion");
        }
    }
}

#[test]
fn an_old_file_waits_as_long_as_the_new_one_cannot_be_read_back() {
    let mut waited = 0;
    for at in 1.. {
        let mut mem = Mem::swapping();
        mem.capabilities.durable_checkpoints = false;
        let bench = Bench::new(mem);
        bench.publish("image.aiv", OLD, 3);
        let file = bench.stage("image.aiv", NEW, 5, bench.was("image.aiv"));
        if killed_at(at, || replace_file(&bench.site(), &file)).is_some() {
            break;
        }
        let content = || bench.mem.content(&path("image.aiv"));
        let aside = || bench.mem.disk().files.len() == 2;
        if !aside() || content().as_deref() != Some(NEW) {
            continue;
        }
        waited += 1;
        bench.mem.disk().locked.insert(path("image.aiv"));
        let settled = settle(&bench.site(), &no_source).unwrap();
        assert_eq!(settled.stuck.len(), 1, "{settled:?}");
        assert!(aside(), "the old file went unproved");
        bench.mem.disk().locked.clear();
        assert_eq!(settle(&bench.site(), &no_source).unwrap().stuck, []);
        assert_eq!(content().as_deref(), Some(NEW));
        assert!(!aside(), "the old file is left");
    }
    assert!(waited > 0, "never killed before the old file was deleted");
}

#[test]
fn a_published_file_of_the_wrong_size_is_taken_down_and_the_old_one_put_back() {
    for (kind, make) in KINDS {
        let bench = Bench::new(make());
        bench.publish("image.aiv", OLD, 3);
        bench.mem.disk().lossy = true;
        let new = bench.stage("new.aiv", NEW, 5, None);
        assert!(publish_file(&bench.site(), &new).is_err());
        assert_eq!(bench.mem.content(&path("new.aiv")), None, "{kind}");
        if bench.mem.capabilities.replace == offsite_plugin_api::Replace::None {
            let file = bench.stage("image.aiv", NEW, 5, bench.was("image.aiv"));
            assert!(replace_file(&bench.site(), &file).is_err());
            assert_eq!(bench.mem.content(&path("image.aiv")).as_deref(), Some(OLD), "{kind}");
        }
        bench.assert_records_true();
        assert_eq!(bench.catalog.intents().unwrap(), []);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// The connection breaks at any change, before or after its effect, with any files in a group; the next run settles
    /// and finishes.
    #[test]
    fn a_broken_connection_at_any_change_costs_nothing(
        kind in 0usize..3,
        present in proptest::collection::vec(any::<bool>(), 1..5),
        at in 1u64..24,
        after in any::<bool>(),
    ) {
        let bench = Bench::new(KINDS[kind].1());
        let names: Vec<String> = (0..present.len()).map(|n| format!("dir/{n}.aiv")).collect();
        for (name, present) in names.iter().zip(&present) {
            if *present {
                bench.publish(name, OLD, 3);
            }
        }
        let files: Vec<Publish> =
            names.iter().map(|n| bench.stage(n, NEW, 5, bench.was(n))).collect();
        let calls = { let disk = bench.mem.disk(); disk.calls() };
        bench.mem.disk().fail = Some((calls + at, after));
        let result = publish_group(&bench.site(), &files);
        let failed = bench.mem.disk().gone;
        prop_assert_eq!(result.is_err(), failed);
        {
            let mut disk = bench.mem.disk();
            disk.gone = false;
            disk.fail = None;
        }
        settle(&bench.site(), &no_source).unwrap();
        for (name, present) in names.iter().zip(&present) {
            let content = bench.mem.content(&path(name));
            let old = present.then(|| OLD.to_vec());
            prop_assert!(content == old || content.as_deref() == Some(NEW), "{} holds {:?}", name, content);
        }
        again(&bench, &files, &|bench, files| publish_group(&bench.site(), files).map(drop));
        for name in &names {
            let content = bench.mem.content(&path(name));
            prop_assert_eq!(content.as_deref(), Some(NEW));
        }
        bench.assert_records_true();
        bench.assert_clean();
    }

    /// An entry is taken for unchanged only when everything that both sides know agrees.
    #[test]
    fn a_changed_entry_is_never_taken_for_the_same(size in 0u64..3, mtime in 0i64..3, version in 0u8..3) {
        let mut entry = offsite_plugin_api::Entry::file(path("x"), 1);
        entry.mtime = Some(offsite_plugin_api::Timestamp { ns: 1, precision_ns: 1 });
        entry.version = Some("1".into());
        let was = Was::of(&entry);
        entry.size = size;
        entry.mtime = Some(offsite_plugin_api::Timestamp { ns: mtime, precision_ns: 1 });
        entry.version = Some(version.to_string());
        prop_assert_eq!(was.still(&entry), (size, mtime, version) == (1, 1, 1));
    }
}
