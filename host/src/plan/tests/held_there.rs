//! What the target consolidated, and the source has changed since: the target's image stays what it is as long as it holds
//! something that the source still has.

use super::sim::{SETTLE, World, aip, assert_restorable, path, qcow2, qcow2_name, step, work};
use crate::chain::Span;
use crate::format::ImageKind;
use crate::plan::{Action, Code};

/// Base and three increments, the second of which holds the first on the target; nobody but the catalog says so.
fn merged_on_target() -> World {
    let mut world = World::with_aip(3);
    world.options.sync = true;
    world.options.max_delete = 1.0;
    world.run();
    world.erase(&aip(1));
    world.write(&aip(2), "1 and 2", 300);
    world
}

/// Nothing is done, and what was restorable is restorable, as often as it is run.
#[track_caller]
fn stays_as_it_is(world: &mut World, what: &str) {
    for _ in 0..2 {
        let plan = world.run();
        assert_eq!(work(&plan), [] as [String; 0], "{what}");
        assert!(matches!(step(&plan, &aip(1)).code, Code::Covered | Code::Unproven), "{what}");
        for n in [0, 2, 3] {
            assert_restorable(world, &aip(n), true);
        }
    }
}

#[test]
fn what_holds_an_image_of_the_source_stays_whatever_became_of_it_there() {
    type Change = fn(&mut World);
    let cases: [(&str, Change); 6] = [
        ("gone for good", |w| w.remove(&aip(2))),
        ("gone in one scan", |w| {
            w.remove(&aip(2));
            w.inventory.absent_since.insert(path(&aip(2)), 1_000 - SETTLE + 1);
        }),
        ("more than max_delete", |w| {
            w.remove(&aip(2));
            w.options.max_delete = 0.0;
        }),
        ("deletions wait", |w| {
            w.remove(&aip(2));
            w.options.delete_after_ns = 1_000_000;
        }),
        ("the server keeps it", |w| {
            w.remove(&aip(2));
            w.held.get_mut(&path(&aip(2))).unwrap().retention = Some(5_000);
        }),
        ("being written", |w| w.unsettle(&aip(2))),
    ];
    for (what, change) in cases {
        let mut world = merged_on_target();
        world.options.accept_unproven = true;
        change(&mut world);
        stays_as_it_is(&mut world, what);
    }
}

/// A manifest says what the second one holds.
fn vouch(world: &mut World) {
    let version = world.held[&path(&aip(2))].version.to_string();
    let recorded = world.records.get_mut(&path(&aip(2))).unwrap();
    (recorded.size, recorded.target_version) = (300, Some(version));
    world.spans.insert(path(&aip(2)), Span { first: 1, last: 2 });
}

#[test]
fn what_a_manifest_vouches_for_does_not_keep_others_away() {
    let mut world = merged_on_target();
    vouch(&mut world);
    world.remove(&aip(2));
    assert_eq!(work(&world.run()), [format!("copy {}", aip(1))]);
    for n in 0..=3 {
        assert_restorable(&world, &aip(n), true);
    }
}

#[test]
fn it_is_told_what_it_is_kept_for_and_goes_when_that_goes() {
    let mut world = merged_on_target();
    world.options.accept_unproven = true;
    world.remove(&aip(2));
    world.remove(&aip(3));
    let plan = world.run();
    assert_eq!(work(&plan), [format!("delete {}", aip(3))]);
    let kept = step(&plan, &aip(2));
    assert_eq!((kept.action, kept.code), (Action::Skip, Code::Protected));
    assert!(kept.reason.contains(&aip(1)), "{}", kept.reason);
    assert_restorable(&world, &aip(2), true);
    world.remove(&aip(1));
    assert_eq!(work(&world.run()), [format!("delete {}", aip(2))]);
}

/// One folder that is a set: what time alone orders.
fn timed(number: u64) -> String {
    let kind = if number == 0 { "aiv" } else { "aii" };
    format!("vm/0000000{number}-0000-0000-0000-000000000000_0.{kind}")
}

/// Base and `last` increments in the order of their times; the third holds the second on the target.
fn timed_and_merged_on_target(last: u64) -> World {
    let mut world = World::default();
    for n in 0..=last {
        world.file(&timed(n), 100 + n, n as i64 * 1_000);
    }
    world.run();
    world.erase(&timed(2));
    world.write(&timed(3), "2 and 3", 300);
    world
}

#[test]
fn what_time_orders_after_the_holder_does_not_bring_back_what_that_holds() {
    let mut new = timed_and_merged_on_target(3);
    new.remove(&timed(3));
    new.file(&timed(4), 104, 4_000);
    let plan = new.run();
    assert_eq!(work(&plan), [format!("copy {}", timed(4))]);
    assert_eq!(step(&plan, &timed(2)).code, Code::Unproven);
    for n in [0, 1, 3, 4] {
        assert_restorable(&new, &timed(n), true);
    }
}

/// What the source merged builds on what is left below it there, which the target's holds together with what was merged.
#[test]
fn what_both_sides_merged_in_part_brings_back_what_is_left_below() {
    let mut world = timed_and_merged_on_target(4);
    world.remove(&timed(3));
    world.file(&timed(4), 400, 4_001);
    let plan = world.run();
    assert_eq!(work(&plan), [format!("copy {}", timed(2)), format!("replace {}", timed(4))]);
    for n in [0, 1, 2] {
        assert_restorable(&world, &timed(n), true);
    }
}

#[test]
fn what_a_held_replacement_leaves_there_goes_on_holding() {
    let mut world = merged_on_target();
    world.file(&aip(2), 400, 10);
    world.unsettle(&aip(3));
    let plan = world.run();
    assert_eq!(work(&plan), [] as [String; 0]);
    assert_eq!(step(&plan, &aip(1)).code, Code::Waiting);
    for n in [0, 2, 3] {
        assert_restorable(&world, &aip(n), true);
    }
}

#[test]
fn nothing_new_goes_upon_what_waits_for_an_image_that_is_not_there() {
    let mut world = World::with_aip(3);
    world.run();
    world.erase(&aip(2));
    world.touch(&aip(1), 9);
    world.held.get_mut(&path(&aip(1))).unwrap().retention = Some(5_000);
    world.file(&aip(4), 104, 5);
    let plan = world.run();
    assert_eq!(work(&plan), [] as [String; 0]);
    assert_eq!(step(&plan, &aip(4)).code, Code::Waiting);
}

#[test]
fn a_header_that_names_what_only_the_target_has_needs_that() {
    let mut world = World::with_qcow2(3);
    world.options.sync = true;
    world.options.max_delete = 1.0;
    world.run();
    // 2 is merged into 3 at the source, and 1 is gone there, though nobody knows yet whether for good.
    world.remove(&qcow2_name(2));
    world.remove(&qcow2_name(1));
    world.inventory.absent_since.insert(path(&qcow2_name(1)), 1_000 - SETTLE + 1);
    world.put(&qcow2_name(3), 400, 10, Some(qcow2(&qcow2_name(3), Some(&qcow2_name(1)))));
    let plan = world.run();
    assert_eq!(work(&plan), ["replace 3.qcow2", "delete 2.qcow2"]);
    let replaced = step(&plan, "3.qcow2");
    assert!(!replaced.not_restorable, "{}", replaced.reason);
    assert_eq!(replaced.parent, Some(path("1.qcow2")));
    assert_restorable(&world, "3.qcow2", true);
}

#[test]
fn what_is_held_is_found_although_the_base_is_gone_at_the_source_too() {
    for beside in [false, true] {
        let mut world = World::with_aip(4);
        world.run();
        for n in 1..4 {
            world.erase(&aip(n));
        }
        world.write(&aip(4), "1 to 4", 300);
        world.remove(&aip(4));
        world.remove(&aip(0));
        if beside {
            world.file(&aip(5), 105, 6);
        }
        let plan = world.run();
        for n in 1..4 {
            assert_eq!(step(&plan, &aip(n)).code, Code::Unproven, "{n}");
        }
        assert_restorable(&world, &aip(4), true);
    }
}

#[test]
fn what_the_source_still_has_is_not_in_what_it_merged() {
    // The target merged 1 and 2; the source merged 2 and 3, and still has 1.
    for proved in [false, true] {
        let mut world = merged_on_target();
        world.options.accept_unproven = true;
        if proved {
            vouch(&mut world);
        }
        world.remove(&aip(2));
        world.file(&aip(3), 400, 10);
        world.run();
        for _ in 0..2 {
            world.run();
        }
        assert_eq!(work(&world.plan()), [] as [String; 0]);
        // 1 is sent again, because the source's 3 goes on from it.
        assert_eq!(world.spans.get(&path(&aip(3))).copied(), Some(Span { first: 2, last: 3 }), "{proved}");
        assert!(world.held.contains_key(&path(&aip(1))) && !world.held.contains_key(&path(&aip(2))));
        assert_restorable(&world, &aip(3), true);
    }
}

#[test]
fn what_lacks_something_itself_makes_what_time_orders_after_it_lack_it() {
    type Change = fn(&mut World);
    let cases: [(&str, Change); 2] = [
        ("its record and its base", |w| {
            w.records.remove(&path(&timed(1)));
            w.erase(&timed(0));
        }),
        ("damaged upon a base without a record", |w| {
            w.records.remove(&path(&timed(0)));
            w.write(&timed(1), "damaged", 1);
        }),
    ];
    for (what, change) in cases {
        let mut world = World::default();
        for n in 0..=1 {
            world.file(&timed(n), 100 + n, n as i64 * 1_000);
        }
        world.run();
        world.remove(&timed(1));
        world.file(&timed(2), 102, 2_000);
        change(&mut world);
        let plan = world.run();
        assert!(step(&plan, &timed(2)).not_restorable, "{what}");
        assert_restorable(&world, &timed(2), false);
    }
}

#[test]
fn what_stays_for_want_of_an_image_at_the_source_keeps_what_it_builds_on() {
    let mut world = World::with_qcow2(4);
    world.options.sync = true;
    world.options.max_delete = 1.0;
    world.run();
    // 1 to 4 are merged at the source; then nothing is left of the result.
    (1..4).for_each(|n| world.remove(&qcow2_name(n)));
    world.put(&qcow2_name(4), 0, 10, Some(qcow2(&qcow2_name(4), Some("base.qcow2"))));
    let plan = world.run();
    assert_eq!(work(&plan), [] as [String; 0]);
    assert_eq!(step(&plan, &qcow2_name(4)).code, Code::NotAnImage);
    assert_restorable(&world, &qcow2_name(4), true);
}

#[test]
fn what_is_merged_onto_something_broken_that_is_left_out_is_told_as_broken() {
    let mut world = World::with_aip(2);
    world.run();
    world.write(&aip(0), "damaged", 1);
    world.options.filter.kinds = vec![ImageKind::Incremental];
    world.remove(&aip(1));
    world.file(&aip(2), 400, 10);
    world.file(&aip(3), 103, 20);
    let plan = world.plan();
    for n in [2, 3] {
        assert!(step(&plan, &aip(n)).not_restorable, "{n}");
    }
}
