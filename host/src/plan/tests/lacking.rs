//! What the plan says of images that will not be restorable when it is carried out.

use super::sim::{World, aip, path, qcow2, step, work};
use crate::format::{ImageKind, Recognised};
use crate::plan::Code;

/// Only the time of writing orders these.
fn timed(number: u64) -> String {
    let kind = if number == 0 { "aiv" } else { "aii" };
    format!("vm/0000000{number}-0000-0000-0000-000000000000_0.{kind}")
}

fn replicated(name: fn(u64) -> String, last: u64) -> World {
    let mut world = World::default();
    (0..=last).for_each(|n| world.file(&name(n), 100 + n, 10 * n as i64 + 1));
    world.run();
    world
}

fn told(world: &World, name: fn(u64) -> String, last: u64) -> Vec<u64> {
    let plan = world.plan();
    (0..=last).filter(|n| step(&plan, &name(*n)).not_restorable).collect()
}

#[test]
fn what_builds_on_a_damaged_image_that_must_stay_as_it_is() {
    for damaged in [0, 1] {
        let mut world = replicated(aip, 3);
        world.write(&aip(damaged), "?", 50);
        assert_eq!(told(&world, aip, 3), [0; 0], "it is mended");
        world.held.get_mut(&path(&aip(damaged))).unwrap().retention = Some(5_000);
        assert_eq!(step(&world.plan(), &aip(damaged)).code, Code::Retained);
        assert_eq!(told(&world, aip, 3), (damaged + 1..=3).collect::<Vec<_>>());
    }
}

#[test]
fn what_time_orders_after_a_damaged_image_that_only_the_target_has() {
    // The source can mend it.
    let mut world = replicated(timed, 3);
    world.write(&timed(1), "?", 50);
    assert_eq!(work(&world.plan()), [format!("replace {}", timed(1))]);
    assert_eq!(told(&world, timed, 3), [0; 0]);
    // It cannot.
    world.remove(&timed(1));
    world.file(&timed(4), 104, 41);
    assert_eq!(told(&world, timed, 4), [2, 3, 4]);
    // Nor where what it builds on is mended, and it is empty.
    let mut world = replicated(timed, 3);
    world.write(&timed(0), "?", 50);
    world.write(&timed(1), "", 0);
    world.remove(&timed(1));
    assert_eq!(work(&world.plan()), [format!("replace {}", timed(0))]);
    assert_eq!(told(&world, timed, 3), [2, 3]);
}

#[test]
fn what_builds_on_a_damaged_image_that_the_filter_leaves_out() {
    let mut world = replicated(aip, 2);
    world.options.filter.kinds = vec![ImageKind::Incremental];
    assert_eq!(told(&world, aip, 2), [0; 0]);
    world.write(&aip(0), "?", 50);
    assert_eq!(told(&world, aip, 2), [1, 2]);
}

#[test]
fn an_image_of_which_a_part_is_missing_at_the_source() {
    let mut world = World::default();
    world.put(
        "base.qcow2",
        10,
        1,
        Some(Recognised { parts: vec![path("data.raw")], ..qcow2("base.qcow2", None) }),
    );
    assert!(step(&world.plan(), "base.qcow2").not_restorable);
}

#[test]
fn a_new_image_hangs_on_what_only_the_target_has_between_it_and_the_sources() {
    let mut world = replicated(timed, 2);
    world.remove(&timed(2));
    world.file(&timed(3), 103, 41);
    assert_eq!(step(&world.plan(), &timed(3)).parent, Some(path(&timed(2))));
    // What the source has, it knows the order of: the second was written after the new one.
    let mut world = replicated(timed, 2);
    world.remove(&timed(1));
    world.touch(&timed(2), 60);
    world.file(&timed(3), 103, 41);
    assert_ne!(step(&world.plan(), &timed(3)).parent, Some(path(&timed(2))));
}
