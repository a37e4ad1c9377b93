//! Is the target's file the source's?

use super::sim::{World, aip, step, work};
use crate::plan::{Action, Code, FileAction};

fn published() -> World {
    let mut world = World::with_aip(1);
    world.run();
    world
}

#[test]
fn a_first_run_copies_everything_ancestors_first() {
    let world = World::with_aip(2);
    let plan = world.plan();
    assert_eq!(work(&plan), [0, 1, 2].map(|n| format!("copy {}", aip(n).to_lowercase())));
    assert!(plan.steps.iter().all(|s| s.code == Code::New && s.files.len() == 1));
    assert_eq!((plan.totals.copy, plan.totals.bytes), (3, 100 + 101 + 102));
}

#[test]
fn a_second_run_has_nothing_to_do() {
    let plan = published().plan();
    assert!(
        plan.steps.iter().all(|s| s.action == Action::Skip && s.code == Code::UpToDate && s.files.is_empty())
    );
    assert_eq!((plan.totals.skip, plan.totals.bytes), (2, 0));
}

#[test]
fn what_the_target_has_decides() {
    type Change = fn(&mut World);
    let cases: [(&str, Change, Action, Code, Option<FileAction>); 12] = [
        (
            "size changed",
            |w| w.at_source(&aip(1)).size = 7,
            Action::Replace,
            Code::Changed,
            Some(FileAction::Replace),
        ),
        (
            "time changed",
            |w| w.at_source(&aip(1)).mtime_ns += 1,
            Action::Replace,
            Code::Changed,
            Some(FileAction::Replace),
        ),
        (
            "change time moved",
            |w| w.at_source(&aip(1)).ctime_ns += 1,
            Action::Skip,
            Code::Adopt,
            Some(FileAction::Adopt),
        ),
        ("change time unknown", |w| w.at_source(&aip(1)).ctime_ns = 0, Action::Skip, Code::UpToDate, None),
        ("inode changed", |w| w.at_source(&aip(1)).inode = 9, Action::Skip, Code::UpToDate, None),
        (
            "touched, same size",
            |w| w.write(&aip(1), "x", 101),
            Action::Skip,
            Code::Adopt,
            Some(FileAction::Adopt),
        ),
        (
            "touched, other size",
            |w| w.write(&aip(1), "x", 5),
            Action::Replace,
            Code::Damaged,
            Some(FileAction::Replace),
        ),
        ("vanished", |w| w.erase(&aip(1)), Action::Copy, Code::Damaged, Some(FileAction::Copy)),
        ("no record, same size", |w| w.lose_records(), Action::Skip, Code::Adopt, Some(FileAction::Adopt)),
        (
            "no record, other size",
            |w| {
                w.lose_records();
                w.write(&aip(1), "x", 5);
            },
            Action::Replace,
            Code::Damaged,
            Some(FileAction::Replace),
        ),
        (
            "never read back",
            |w| w.records.values_mut().for_each(|r| r.blake3 = None),
            Action::Skip,
            Code::Adopt,
            Some(FileAction::Adopt),
        ),
        (
            "changed at the source and on the target",
            |w| {
                w.at_source(&aip(1)).mtime_ns += 1;
                w.write(&aip(1), "x", 5);
            },
            Action::Replace,
            Code::Changed,
            Some(FileAction::Replace),
        ),
    ];
    for (what, change, action, code, file) in cases {
        let mut world = published();
        change(&mut world);
        let plan = world.plan();
        let step = step(&plan, &aip(1));
        assert_eq!((step.action, step.code), (action, code), "{what}");
        assert_eq!(step.files.first().map(|f| f.action), file, "{what}");
        assert!(!step.reason.is_empty() && !step.reason.ends_with('.'), "{what}");
        let sends = matches!(action, Action::Copy | Action::Replace);
        assert_eq!(step.bytes > 0, sends, "{what}: only what is sent counts");
    }
}

#[test]
fn a_coarse_server_clock_is_no_change() {
    let mut world = published();
    for recorded in world.records.values_mut() {
        recorded.target_version = None;
        recorded.target_mtime =
            Some(offsite_plugin_api::Timestamp { ns: 1_000_000_000, precision_ns: 2_000_000_000 });
    }
    let plan = world.plan();
    assert!(plan.steps.iter().all(|s| s.code == Code::UpToDate), "entries differ by less than the precision");
}

#[test]
fn a_missing_side_car_is_sent_alone() {
    let mut world = World::default();
    world.file("vol-b001.spf", 10, 1);
    world.file("vol-b001.md5", 3, 1);
    let first = world.run();
    let image = step(&first, "vol-b001.spf");
    assert_eq!(
        image.files.iter().map(|f| f.path.display()).collect::<Vec<_>>(),
        ["vol-b001.md5", "vol-b001.spf"]
    );
    world.erase("vol-b001.md5");
    let plan = world.plan();
    let image = step(&plan, "vol-b001.spf");
    assert_eq!((image.action, image.code, image.bytes), (Action::Copy, Code::Damaged, 3));
    assert_eq!(image.files.len(), 1);
}

#[test]
fn adopting_what_matches_sends_nothing_and_settles() {
    let mut world = published();
    world.lose_records();
    let held = world.held.clone();
    let plan = world.run();
    assert_eq!(plan.totals.bytes, 0);
    assert!(world.held.iter().zip(&held).all(|(a, b)| a.1.version == b.1.version), "nothing was written");
    assert!(world.plan().steps.iter().all(|s| s.code == Code::UpToDate));
}
