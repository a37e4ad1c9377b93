//! What earlier runs and others left: staging, side names, nested targets, endless listings.

use super::mem::{Mem, MemStaged};
use super::{Bench, ME, OTHER, path};
use crate::error::BackendKind;
use crate::target::{list, manifest, names, no_source, publish_file, settle, survey, sweep};

fn leave(bench: &Bench, image: &str, owner: &str) {
    let staging = names::staging(&path(image), owner).unwrap();
    let staged = MemStaged { path: path(image), owner: owner.into(), bytes: b"half".to_vec() };
    bench.mem.disk().staged.insert(staging, staged);
}

#[test]
fn own_staging_that_nobody_resumes_goes_and_foreign_staging_is_reported() {
    let bench = Bench::new(Mem::atomic());
    leave(&bench, "d/orphan.aiv", ME);
    leave(&bench, "d/theirs.aiv", OTHER);
    bench.stage("d/resumed.aiv", b"staged", 3, None);
    bench.stage("d/dropped.aiv", b"staged", 3, None);
    let found = survey(&bench.site()).unwrap();
    assert!(found.view.files.is_empty(), "{:?}", found.view.files);
    let resumed = path("d/resumed.aiv");
    let swept = sweep::sweep(&bench.site(), &found, &|p| *p == resumed).unwrap();
    assert_eq!((swept.discarded, swept.foreign.len()), (2, 1));
    assert_eq!((swept.foreign[0].owner.as_str(), swept.foreign[0].bytes), (OTHER, 4));
    let left: Vec<_> = bench.mem.disk().staged.values().map(|s| s.path.display().into_owned()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.iter().all(|l| l.contains("resumed") || l.contains("theirs")), "{left:?}");
    assert_eq!(bench.catalog.staged().unwrap().len(), 1);
}

#[test]
fn an_upload_of_nobodys_is_ours_by_its_name_or_when_it_was_left() {
    let bench = Bench::new(Mem::atomic());
    bench.publish("published.aiv", b"content", 1);
    let begin = |image: &str| {
        let staged = MemStaged { path: path(image), owner: String::new(), bytes: b"half".to_vec() };
        bench.mem.disk().staged.insert(path(&format!("upload-{image}")), staged);
    };
    let left =
        || -> Vec<String> { bench.mem.disk().staged.keys().map(|p| p.display().into_owned()).collect() };
    for image in ["published.aiv", "killed.aiv", "planned.aiv", "someones.bin"] {
        begin(image);
    }
    // A kill before the first checkpoint: the row tells no token to go on with.
    let row = bench.stage("killed.aiv", b"whole", 3, None);
    let begun = bench.catalog.staged_at(&row.path).unwrap().unwrap();
    let begun = crate::catalog::StagedFile { token: None, complete: false, blake3: None, ..begun };
    bench.catalog.begin_staging(&begun).unwrap();
    bench.mem.disk().staged.remove(&row.staging);
    bench.mem.disk().age = Some(600);
    let planned = |p: &offsite_plugin_api::TargetPath| *p == path("planned.aiv") || *p == path("killed.aiv");
    let sweep = || sweep::sweep(&bench.site(), &survey(&bench.site()).unwrap(), &planned).unwrap();
    let swept = sweep();
    assert_eq!((swept.discarded, left()), (3, vec!["upload-someones.bin".to_owned()]));
    assert_eq!(swept.foreign[0].path, Some(path("someones.bin")));
    bench.mem.disk().age = Some(24 * 3600);
    assert_eq!((sweep().discarded, left().len()), (1, 0));
}

#[test]
fn what_cannot_be_read_or_has_a_directorys_name_keeps_no_other_image_waiting() {
    let bench = Bench::new(Mem::atomic());
    bench.mem.put(&path("theirs.qcow2"), b"no header of theirs is read", 1);
    bench.mem.disk().locked.insert(path("theirs.qcow2"));
    bench.publish("ours.aiv", b"content", 1);
    manifest::write_behind(&bench.site()).unwrap();
    let manifests: Vec<_> = bench.mem.disk().files.keys().filter(|p| names::is_own(p)).cloned().collect();
    assert_eq!(manifests.len(), 1);
    bench.mem.disk().locked.extend(manifests);
    let bench = Bench { catalog: crate::catalog::Catalog::in_memory().unwrap(), ..bench };
    let found = survey(&bench.site()).unwrap();
    assert_eq!((found.view.files.iter().count(), found.notices.len()), (2, 1), "{:?}", found.notices);
    bench.mem.disk().gone = true;
    assert!(survey(&bench.site()).is_err(), "the whole target says nothing");

    let bench = Bench::new(Mem::plain());
    bench.mem.disk().directories.insert(path("base.aiv"));
    let file = bench.stage("base.aiv", b"content", 1, None);
    let error = publish_file(&bench.site(), &file).unwrap_err();
    assert!(error.is_backend(&BackendKind::Exists), "{error}");
}

#[test]
fn an_old_file_without_an_intent_stays_beside_what_cannot_be_read_back_as_it_is_recorded() {
    for bad in [true, false] {
        let bench = Bench::new(Mem::plain());
        bench.publish("image.aiv", b"new", 3);
        let side = names::side(&path("image.aiv"), ME, 0).unwrap();
        bench.mem.put(&side, b"old", 3);
        if bad {
            bench.mem.disk().files.get_mut(&path("image.aiv")).unwrap().bytes.fill(0);
        }
        let sides = || sweep::sides(&bench.site(), &survey(&bench.site()).unwrap()).unwrap();
        let locked = |locked: bool| match locked {
            true => drop(bench.mem.disk().locked.insert(path("image.aiv"))),
            false => bench.mem.disk().locked.clear(),
        };
        locked(true);
        assert!(sides()[0].contains("stays") && bench.mem.content(&side).is_some());
        locked(false);
        sides();
        assert_eq!(bench.mem.content(&side).is_some(), bad);
    }
}

#[test]
fn a_side_name_without_an_intent_is_put_back_or_removed_only_when_its_name_is_verified() {
    for owner in [ME, OTHER] {
        let bench = Bench::new(Mem::plain());
        bench.publish("gap.aiv", b"old", 3);
        bench.publish("done.aiv", b"new", 3);
        bench.mem.put(&path("unverified.aiv"), b"who knows", 3);
        let sides: Vec<_> = ["gap.aiv", "done.aiv", "unverified.aiv", "unknown.aiv"]
            .map(|n| names::side(&path(n), owner, 0).unwrap())
            .into();
        for side in &sides {
            bench.mem.put(side, b"old", 3);
        }
        bench.mem.disk().files.remove(&path("gap.aiv"));
        settle(&bench.site(), &no_source).unwrap();
        let said = sweep::sides(&bench.site(), &survey(&bench.site()).unwrap()).unwrap();
        assert_eq!(said.len(), 4, "{said:?}");
        let there: Vec<bool> = sides.iter().map(|s| bench.mem.content(s).is_some()).collect();
        if owner == ME {
            assert_eq!(bench.mem.content(&path("gap.aiv")).as_deref(), Some(&b"old"[..]));
            assert_eq!(there, [false, false, true, true]);
        } else {
            assert_eq!(there, [true; 4]);
        }
    }
}

#[test]
fn a_failed_repair_is_a_failure_though_the_catalog_knows_the_content() {
    let bench = Bench::new(Mem::atomic());
    bench.publish("base", b"content", 1);
    // It vanished from the target, was staged anew, and the staging vanished, too.
    bench.mem.disk().files.remove(&path("base"));
    let file = bench.stage("base", b"content", 1, None);
    bench.mem.disk().staged.clear();
    assert!(publish_file(&bench.site(), &file).is_err(), "nothing has the name");
    assert!(bench.mem.content(&path("base")).is_none());
    // Staged once more, it is repaired; and to repeat that is a success.
    let file = bench.stage("base", b"content", 1, None);
    publish_file(&bench.site(), &file).unwrap();
    publish_file(&bench.site(), &file).unwrap();
    assert_eq!(bench.mem.content(&path("base")).unwrap(), b"content");
}

#[test]
fn a_target_within_this_one_is_not_looked_at() {
    let bench = Bench::new(Mem::atomic());
    bench.mem.put(&path("mine.aiv"), b"x", 1);
    bench.mem.put(&path("sub/offsite-target"), b"{}", 1);
    bench.mem.put(&path("sub/theirs.aiv"), b"x", 1);
    bench.mem.put(&path("sub.aiv"), b"x", 1);
    leave(&bench, "sub/staged.aiv", ME);
    let found = survey(&bench.site()).unwrap();
    let seen: Vec<_> = found.view.files.keys().map(|p| p.display().into_owned()).collect();
    assert_eq!(seen, ["mine.aiv", "sub.aiv"]);
    assert_eq!(found.notices.len(), 1);
    let swept = sweep::sweep(&bench.site(), &found, &|_| false).unwrap();
    assert_eq!(swept.discarded, 0);
    assert_eq!(bench.mem.disk().staged.len(), 1);
}

#[test]
fn every_page_is_read_and_pages_that_never_end_are_an_error() {
    let bench = Bench::new(Mem::atomic());
    for n in 0..20 {
        bench.mem.put(&path(&format!("{n}.aiv")), b"x", 1);
    }
    assert_eq!(list(&bench.mem, &bench.call).unwrap().files.len(), 20);
    bench.mem.disk().page = 0;
    let error = list(&bench.mem, &bench.call).unwrap_err();
    assert!(error.is_backend(&BackendKind::Corrupt), "{error}");
}

#[test]
fn what_is_open_is_told_and_its_set_is_not_restorable_until_it_is_settled() {
    use crate::run::killpoint::in_thread::killed_at;
    let name = "host@c_20240101_d01_00001.aiv";
    let bench = Bench::new(Mem::swapping());
    bench.publish(name, b"old", 3);
    let restorable = |bench: &Bench| {
        let found = survey(&bench.site()).unwrap();
        (found.view.open.len(), found.view.chains().sets.iter().flat_map(|s| &s.images).all(|i| i.restorable))
    };
    assert_eq!(restorable(&bench), (0, true));
    let file = bench.stage(name, b"newer", 5, bench.was(name));
    // Just after the new file is published and before the old one is removed.
    let at = (1..).find(|at| {
        let bench = Bench::new(Mem::swapping());
        bench.publish(name, b"old", 3);
        let file = bench.stage(name, b"newer", 5, bench.was(name));
        killed_at(*at, || crate::target::replace_file(&bench.site(), &file).unwrap());
        bench.mem.content(&path(name)).as_deref() == Some(b"newer")
    });
    killed_at(at.unwrap(), || crate::target::replace_file(&bench.site(), &file).unwrap());
    let found = survey(&bench.site()).unwrap();
    assert!(found.view.open[0].contains("swap"), "{:?}", found.view.open);
    assert_eq!(restorable(&bench), (1, false));
    assert_eq!(settle(&bench.site(), &no_source).unwrap().said.len(), 1);
    assert_eq!(restorable(&bench), (0, true));
}
