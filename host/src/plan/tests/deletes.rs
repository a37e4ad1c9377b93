//! What a mirror may delete, and everything that keeps it from doing so.

use offsite_plugin_api::TargetPath;

use super::sim::{SETTLE, World, aip, path, qcow2, step, work};
use crate::plan::{Action, Code, NoticeCode};

/// Base and three increments on both sides, mirrored; the last two are gone at the source.
fn two_gone() -> World {
    let mut world = World::with_aip(3);
    world.options.sync = true;
    world.options.max_delete = 0.5;
    world.run();
    world.remove(&aip(2));
    world.remove(&aip(3));
    world
}

fn both() -> [String; 2] {
    [format!("delete {}", aip(3)), format!("delete {}", aip(2))]
}

#[test]
fn a_mirror_deletes_what_is_gone_highest_number_first() {
    let mut world = two_gone();
    let plan = world.run();
    assert_eq!(work(&plan), both());
    let [first, second] = [3, 2].map(|n| plan.steps.iter().position(|s| s.image == path(&aip(n))).unwrap());
    assert!(plan.steps[second].after.contains(&first), "2 waits for the deletion of 3");
    assert_eq!(step(&plan, &aip(3)).bytes, 103);
    assert_eq!(plan.totals.bytes, 0, "a deletion sends nothing");
    assert!(world.plan().steps.iter().all(|s| s.code == Code::UpToDate));
}

#[test]
fn deletions_come_after_every_copy_of_the_set() {
    let mut world = two_gone();
    world.file("srv@a_20240101_d01_00001_i00001.aii", 500, 99);
    world.file("srv@b_20240101_d01_00001.aiv", 5, 99);
    let plan = world.plan();
    assert_eq!(work(&plan)[2..], both(), "{:?}", work(&plan));
    let deletion = plan.steps.iter().find(|s| s.action == Action::Delete).unwrap();
    let replaced = plan.steps.iter().position(|s| s.action == Action::Replace).unwrap();
    assert!(deletion.after.contains(&replaced));
}

#[test]
fn what_keeps_a_mirror_from_deleting() {
    type Change = fn(&mut World);
    let cases: [(&str, Change, Code, &str); 14] = [
        ("no sync", |w| w.options.sync = false, Code::Kept, "does not mirror deletions"),
        ("absent once", |w| w.inventory.absent_since.clear(), Code::Protected, "second scan"),
        (
            "absent in one scan without a settle time",
            |w| {
                w.inventory.settle_ns = 0;
                w.inventory.absent_since.values_mut().for_each(|v| *v = 1_000);
            },
            Code::Protected,
            "second scan",
        ),
        (
            "absent for less than a settle time",
            |w| w.inventory.absent_since.values_mut().for_each(|v| *v = 1_000 - SETTLE + 1),
            Code::Protected,
            "second scan",
        ),
        (
            "an unreadable directory",
            |w| w.inventory.unreadable.push((TargetPath::root(), "I/O error".into())),
            Code::Protected,
            "could not be read",
        ),
        ("an empty source", |w| w.inventory.files.clear(), Code::Protected, "the source is empty"),
        (
            "another source",
            |w| {
                (0..=1).for_each(|n| w.remove(&aip(n)));
                w.file("other.aiv", 1, 1);
            },
            Code::Held,
            "no image on this target is at the source",
        ),
        (
            "touched on the target",
            |w| w.write(&aip(3), "?", 103),
            Code::Protected,
            "somebody else changed it",
        ),
        (
            "under retention",
            |w| w.held.values_mut().for_each(|h| h.retention = Some(5_000)),
            Code::Retained,
            "the server keeps",
        ),
        (
            "not ours",
            |w| {
                w.records.remove(&path(&aip(3)));
            },
            Code::Kept,
            "not replicated by this job",
        ),
        ("above max_delete", |w| w.options.max_delete = 0.25, Code::OverDeleteLimit, "max_delete"),
        ("max_delete of nothing", |w| w.options.max_delete = 0.0, Code::OverDeleteLimit, "--allow-deletes"),
        (
            "needed by an image that stays",
            |w| {
                w.file(&aip(3), 103, 4);
                w.remove(&aip(1));
            },
            Code::UpToDate,
            "as it is",
        ),
        ("unsettled", |w| w.unsettle(&aip(3)), Code::NotSettled, "written"),
    ];
    for (what, change, code, reason) in cases {
        let mut world = two_gone();
        change(&mut world);
        let plan = world.plan();
        assert!(plan.steps.iter().all(|s| s.action != Action::Delete || s.image == path(&aip(3))), "{what}");
        let three = step(&plan, &aip(3));
        assert_eq!((three.action, three.code), (Action::Skip, code), "{what}: {}", three.reason);
        assert!(three.reason.contains(reason), "{what}: {}", three.reason);
    }
}

#[test]
fn an_ancestor_of_what_stays_is_never_deleted() {
    let mut world = World::with_aip(3);
    world.options.sync = true;
    world.options.max_delete = 1.0;
    world.run();
    world.remove(&aip(1));
    let plan = world.run();
    assert_eq!(work(&plan), [] as [String; 0]);
    let one = step(&plan, &aip(1));
    assert_eq!(one.code, Code::Protected);
    assert!(one.reason.contains("needs it"), "{}", one.reason);
    // Only when all above it are gone.
    world.remove(&aip(2));
    assert_eq!(work(&world.plan()), [] as [String; 0]);
    world.remove(&aip(3));
    assert_eq!(work(&world.plan()), [3, 2, 1].map(|n| format!("delete {}", aip(n))));
}

#[test]
fn time_alone_proves_no_merge_so_what_lies_between_stays() {
    let name = |n: u64| {
        let kind = if n == 0 { "aiv" } else { "aii" };
        format!("vm/0000000{n}-0000-0000-0000-000000000000_0.{kind}")
    };
    let mut world = World::default();
    world.options.sync = true;
    world.options.max_delete = 1.0;
    for n in 0..=2 {
        world.file(&name(n), 100 + n, n as i64 + 1);
    }
    world.run();
    world.remove(&name(1));
    let plan = world.plan();
    assert_eq!(work(&plan), [] as [String; 0]);
    assert!(step(&plan, &name(1)).reason.contains("needs it"));
}

#[test]
fn over_the_limit_nothing_is_deleted_copies_go_on_and_the_run_says_so() {
    let mut world = two_gone();
    world.options.max_delete = 0.25;
    world.file("srv@b_20240101_d01_00001.aiv", 5, 99);
    let plan = world.plan();
    assert_eq!(work(&plan), ["copy srv@b_20240101_d01_00001.aiv"]);
    assert!(
        plan.notices.iter().any(|n| n.code == NoticeCode::OverDeleteLimit && n.failing()),
        "{:?}",
        plan.notices
    );
    world.options.allow_deletes = true;
    let plan = world.plan();
    assert_eq!(plan.totals.delete, 2);
    assert!(plan.notices.iter().all(|n| !n.failing()));
}

#[test]
fn allowing_deletes_does_not_allow_an_empty_source_to_wipe_a_target() {
    let mut world = two_gone();
    world.options.allow_deletes = true;
    for n in 0..=1 {
        world.remove(&aip(n));
    }
    let plan = world.plan();
    assert_eq!(plan.totals.delete, 0);
    assert!(plan.notices.iter().any(|n| n.code == NoticeCode::DeletesHeld && n.failing()));
}

#[test]
fn never_below_the_targets_own_span() {
    // The target merged 1 to 3 into 3 and left 2 lying there; then 2 is gone at the source.
    let mut world = World::with_aip(4);
    world.options.sync = true;
    world.options.max_delete = 1.0;
    world.run();
    world.write(&aip(3), "1 to 3", 300);
    let record = world.records.get_mut(&path(&aip(3))).unwrap();
    record.size = 300;
    record.target_version = Some(world.held[&path(&aip(3))].version.to_string());
    world.spans.insert(path(&aip(3)), crate::chain::Span { first: 2, last: 3 });
    world.erase(&aip(2));
    world.inventory.files.retain(|f| f.path != path(&aip(1)));
    world.inventory.absent_since.insert(path(&aip(1)), 0);
    let plan = world.plan();
    assert_eq!(step(&plan, &aip(3)).code, Code::Consolidated);
    let one = step(&plan, &aip(1));
    assert_eq!((one.action, one.code), (Action::Skip, Code::Protected), "{}", one.reason);
}

#[test]
fn a_whole_set_that_is_gone_goes_with_its_consolidated_image() {
    let mut world = World::with_aip(3);
    world.options.sync = true;
    world.options.max_delete = 1.0;
    world.file("srv@a_20240201_d01_00002.aiv", 5, 99);
    world.run();
    world.erase(&aip(1));
    world.erase(&aip(2));
    world.write(&aip(3), "1 to 3", 300);
    for n in 0..=3 {
        world.remove(&aip(n));
    }
    // Unproven: it may be anything, and stays, and so does its base.
    let plan = world.plan();
    assert_eq!(work(&plan), [] as [String; 0]);
    world.accepted.push(path(&aip(3)));
    assert_eq!(work(&world.plan()), [3, 0].map(|n| format!("delete {}", aip(n))));
}

#[test]
fn parts_and_side_cars_go_with_their_image_anchor_first() {
    let mut world = World::default();
    world.options.sync = true;
    world.options.max_delete = 1.0;
    for name in ["a-b001.spf", "a-b001.md5", "a-b001.sp1", "a-b002.spf"] {
        world.file(name, 10, 1);
    }
    world.run();
    for name in ["a-b001.spf", "a-b001.md5", "a-b001.sp1"] {
        world.remove(name);
    }
    let plan = world.run();
    assert_eq!(work(&plan), ["delete a-b001.spf"]);
    let files: Vec<TargetPath> = step(&plan, "a-b001.spf").files.iter().map(|f| f.target.clone()).collect();
    assert_eq!(files.len(), 3);
    assert_eq!(files[0], path("a-b001.spf"), "the image stops being visible first");
    assert_eq!(world.held.len(), 1);
}

#[test]
fn a_side_car_that_is_left_is_no_image_that_is_left() {
    let mut world = World::default();
    world.options.sync = true;
    world.options.max_delete = 1.0;
    world.options.allow_deletes = true;
    for name in ["a-b001.spf", "a-b001.md5", "z-b001.spf"] {
        world.file(name, 10, 1);
    }
    world.run();
    world.remove("a-b001.spf");
    world.remove("z-b001.spf");
    let plan = world.run();
    assert_eq!(work(&plan), [] as [String; 0]);
    assert!(step(&plan, "z-b001.spf").reason.contains("no image on this target is at the source"));
}

#[test]
fn a_part_that_went_alone_stays_with_its_image() {
    let mut world = World::default();
    world.options.sync = true;
    world.options.max_delete = 1.0;
    for name in ["a-b001.spf", "a-b001.sp1"] {
        world.file(name, 10, 1);
    }
    world.run();
    world.remove("a-b001.sp1");
    let plan = world.run();
    assert_eq!(work(&plan), [] as [String; 0], "the image on the target would lose half of its content");
    assert_eq!(step(&plan, "a-b001.sp1").code, Code::Protected);
    assert_eq!(world.held.len(), 2);
}

#[test]
fn a_side_car_that_went_alone_is_deleted_alone() {
    let mut world = World::default();
    world.options.sync = true;
    world.file("a-b001.spf", 10, 1);
    world.file("a-b001.md5", 3, 1);
    for n in 1..=3 {
        world.file(&format!("a-b001-i00{n}.spi"), 5, 10 * n);
        world.file(&format!("a-b001-i00{n}.md5"), 3, 10 * n);
    }
    world.run();
    world.remove("a-b001.md5");
    let plan = world.run();
    assert_eq!(work(&plan), ["delete a-b001.md5"], "one of four, and no image");
    assert_eq!(world.held.len(), 7);
    // All that is left of them: as with images, that is asked about.
    for n in 1..=3 {
        world.remove(&format!("a-b001-i00{n}.md5"));
    }
    for _ in 0..2 {
        let plan = world.run();
        assert_eq!(work(&plan), [] as [String; 0]);
        assert_eq!(step(&plan, "a-b001-i001.md5").code, Code::OverDeleteLimit);
        let told = plan.notices.iter().find(|n| n.code == NoticeCode::OverDeleteLimit).unwrap();
        assert!(told.text.contains("3 of 3 side-cars would be deleted"), "{}", told.text);
    }
    // With their images they go as these do.
    world.remove("a-b001-i003.spi");
    assert_eq!(work(&world.run()), ["delete a-b001-i003.spi"]);
    assert_eq!(world.held.len(), 5);
    world.options.allow_deletes = true;
    assert_eq!(work(&world.run()), ["delete a-b001-i001.md5", "delete a-b001-i002.md5"]);
}

#[test]
fn a_replacement_that_must_wait_keeps_what_it_would_absorb() {
    let mut world = World::with_qcow2(3);
    world.options.sync = true;
    world.options.max_delete = 1.0;
    world.run();
    world.remove("1.qcow2");
    world.remove("2.qcow2");
    world.put("3.qcow2", 300, 50, Some(qcow2("3.qcow2", Some("base.qcow2"))));
    world.held.get_mut(&path("3.qcow2")).unwrap().retention = Some(5_000);
    let plan = world.plan();
    assert_eq!(step(&plan, "3.qcow2").code, Code::Retained);
    assert_eq!(work(&plan), [] as [String; 0], "the old 3 still needs 2 and 1");
    world.now_ns = 5_001 * 1_000_000_000;
    assert_eq!(work(&world.plan()), ["replace 3.qcow2", "delete 2.qcow2", "delete 1.qcow2"]);
}
