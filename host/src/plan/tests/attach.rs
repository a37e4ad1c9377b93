//! New images whose ancestors only the target still has.

use super::sim::{World, path, qcow2, qcow2_name, step, work};
use crate::plan::Action;

/// The base and two increments were published; the source keeps nothing of it but a third.
fn only_the_newest_is_left() -> World {
    let mut world = World::with_qcow2(2);
    world.run();
    for n in 0..=2 {
        world.remove(&qcow2_name(n));
    }
    world.put("3.qcow2", 103, 40, Some(qcow2("3.qcow2", Some("2.qcow2"))));
    world
}

#[test]
fn a_new_image_is_published_upon_what_only_the_target_has() {
    let world = only_the_newest_is_left();
    let plan = world.plan();
    let new = step(&plan, "3.qcow2");
    assert_eq!(new.action, Action::Copy);
    assert_eq!(new.parent, Some(path("2.qcow2")));
    assert!(!new.not_restorable, "{}", new.reason);
}

#[test]
fn what_somebody_touched_or_nobody_recorded_is_no_parent() {
    let mut world = only_the_newest_is_left();
    world.write("2.qcow2", "other", 102);
    let plan = world.plan();
    assert_eq!(step(&plan, "3.qcow2").parent, None);
    assert!(step(&plan, "3.qcow2").not_restorable);
    let mut world = only_the_newest_is_left();
    world.records.get_mut(&path("2.qcow2")).unwrap().blake3 = None;
    assert_eq!(step(&world.plan(), "3.qcow2").parent, None);
    let mut world = only_the_newest_is_left();
    world.erase("2.qcow2");
    assert_eq!(step(&world.plan(), "3.qcow2").parent, None);
}

#[test]
fn an_ancestor_that_is_not_whole_is_told() {
    let mut world = only_the_newest_is_left();
    world.erase("base.qcow2");
    let plan = world.plan();
    let new = step(&plan, "3.qcow2");
    assert!(new.not_restorable && new.reason.contains("base.qcow2"), "{}", new.reason);
}

#[test]
fn sync_keeps_what_a_new_image_is_published_upon() {
    let mut world = only_the_newest_is_left();
    world.options.sync = true;
    world.options.allow_deletes = true;
    for _ in 0..3 {
        assert!(
            work(&world.plan()).iter().all(|did| !did.starts_with("delete")),
            "{:?}",
            work(&world.plan())
        );
        world.run();
    }
    super::sim::assert_restorable(&world, "3.qcow2", true);
}
