//! What waits because something else of its chain waits.

use super::sim::{World, aip, path, qcow2, step, work};
use crate::format::Recognised;
use crate::plan::{Action, Code};

/// Three replicated images whose base changed at the source.
fn base_changed() -> World {
    let mut world = World::with_aip(2);
    world.run();
    world.file(&aip(0), 500, 50);
    world
}

#[test]
fn an_ancestor_is_not_replaced_beneath_a_replacement_that_waits() {
    let mut world = base_changed();
    world.file(&aip(2), 502, 52);
    assert_eq!(work(&world.plan()), [0, 2].map(|n| format!("replace {}", aip(n))));
    world.held.get_mut(&path(&aip(2))).unwrap().retention = Some(5_000);
    let plan = world.plan();
    assert_eq!(work(&plan), [] as [String; 0]);
    assert_eq!(step(&plan, &aip(0)).code, Code::Waiting);
    // What is new between the two waits with them.
    world.erase(&aip(1));
    let plan = world.plan();
    assert_eq!(work(&plan), [] as [String; 0]);
    assert_eq!(step(&plan, &aip(1)).code, Code::Waiting);
}

#[test]
fn a_replacement_that_waits_for_what_the_target_refuses_holds_its_ancestors_too() {
    let mut world = base_changed();
    world.erase(&aip(1));
    world.file(&aip(1), 5_000, 51);
    world.file(&aip(2), 502, 52);
    world.capabilities.largest_file = Some(1_000);
    let plan = world.plan();
    assert_eq!(work(&plan), [] as [String; 0]);
    let codes = [0, 1, 2].map(|n| step(&plan, &aip(n)).code);
    assert_eq!(codes, [Code::Waiting, Code::Refused, Code::Waiting]);
    assert!(plan.steps.iter().all(|s| s.action == Action::Skip));
}

#[test]
fn nothing_of_a_set_is_replaced_while_a_file_of_it_that_the_target_has_is_being_written() {
    // Known by its record: a side-car is no image of its own.
    let mut world = World::default();
    ["a-b001.spf", "a-b001-i001.spi", "a-b001.md5"].iter().for_each(|name| world.file(name, 10, 1));
    world.run();
    world.file("a-b001-i001.spi", 20, 50);
    assert_eq!(work(&world.plan()), ["replace a-b001-i001.spi"]);
    world.unsettle("a-b001.md5");
    assert_eq!(work(&world.plan()), [] as [String; 0]);
    // Known by the chain that it lies in: its record is lost.
    let mut world = World::with_aip(3);
    world.run();
    world.file(&aip(1), 500, 50);
    world.records.remove(&path(&aip(3)));
    assert_eq!(work(&world.plan()), [format!("replace {}", aip(1))]);
    world.unsettle(&aip(3));
    assert_eq!(work(&world.plan()), [] as [String; 0]);
}

#[test]
fn an_image_waits_for_an_unfinished_file_that_may_be_its_ancestor() {
    let timed = |n: u64| {
        let kind = if n == 0 { "aiv" } else { "aii" };
        format!("vm/0000000{n}-0000-0000-0000-000000000000_0.{kind}")
    };
    let veeam = |n: u64, kind: &str| format!("jobD2024-01-{n:02}T200000.{kind}");
    // The second of each is unfinished, and that other one may build on it.
    let cases: [(&str, [String; 3], usize); 3] = [
        ("by time", [0, 1, 2].map(timed), 2),
        ("by the moment in its name", [veeam(1, "vbk"), veeam(2, "vib"), veeam(3, "vib")], 2),
        ("by the moment, backwards", [veeam(1, "vrb"), veeam(2, "vrb"), veeam(3, "vbk")], 0),
    ];
    for (what, names, waits) in cases {
        let mut world = World::default();
        (0..3).for_each(|n| world.file(&names[n], 100, 10 * n as i64 + 1));
        assert_eq!(work(&world.plan()).len(), 3, "{what}");
        world.unsettle(&names[1]);
        let plan = world.plan();
        assert_eq!(step(&plan, &names[waits]).code, Code::Waiting, "{what}: {:?}", work(&plan));
    }
}

#[test]
fn an_image_waits_for_a_part_that_its_header_names() {
    let mut world = World::default();
    let image = Recognised { parts: vec![path("data.raw")], ..qcow2("base.qcow2", None) };
    world.put("base.qcow2", 10, 1, Some(image));
    assert_eq!(work(&world.plan()), ["copy base.qcow2"]);
    world.unsettle("data.raw");
    assert_eq!(work(&world.plan()), [] as [String; 0]);
}

#[test]
fn a_sets_file_that_the_target_refuses_is_not_sent() {
    let mut world = World::default();
    world.file("JobD2024-01-01T220000.vbk", 10, 1);
    world.file("Job.vbm", 5_000, 1);
    world.capabilities.largest_file = Some(1_000);
    let plan = world.plan();
    assert_eq!(work(&plan), ["copy jobd2024-01-01t220000.vbk"]);
    assert_eq!(step(&plan, "Job.vbm").code, Code::Refused);
}
