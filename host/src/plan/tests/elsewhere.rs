//! Images of the source that the target holds in one that the source does not have; and what only seems to hold them.

use super::sim::{World, aip, path, qcow2, step, work};
use crate::chain::Span;
use crate::plan::Code;

const HOLDER: &str = "vol-b001-i003-cd.spi";

fn shadow(n: u64) -> String {
    if n == 0 { "vol-b001.spf".to_owned() } else { format!("vol-b001-i{n:03}.spi") }
}

/// The target merged 1 to 3 under a name of its own.
fn named() -> World {
    let mut world = World::default();
    (0..=3).for_each(|n| world.file(&shadow(n), 10 + n, n as i64 + 1));
    world.run();
    (1..=3).for_each(|n| world.erase(&shadow(n)));
    world.write(HOLDER, "1 to 3", 30);
    world
}

fn copies(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(|n| format!("copy {}", shadow(n))).collect()
}

#[test]
fn only_a_holder_that_is_whole_stays_and_is_the_targets_own_holds_anything() {
    assert_eq!(work(&named().plan()), [] as [String; 0]);
    let mut empty = named();
    empty.write(HOLDER, "", 0);
    assert_eq!(work(&empty.plan()), copies(1..=3));
    // The source has it beside the others.
    let mut both = named();
    both.file(HOLDER, 30, 9);
    assert_eq!([1, 2, 3].map(|n| step(&both.plan(), &shadow(n)).code), [Code::Damaged; 3]);
    // It is gone at the source, and goes.
    let mut goes = named();
    goes.remove(&shadow(3));
    assert_eq!(work(&goes.plan()), [] as [String; 0]);
    goes.options.sync = true;
    assert_eq!(work(&goes.plan()), copies(1..=2));
}

#[test]
fn what_the_target_shows_itself_is_not_held() {
    let mut world = World::default();
    (0..=3).for_each(|n| world.file(&shadow(n), 10 + n, n as i64 + 1));
    world.run();
    [1, 3].into_iter().for_each(|n| world.erase(&shadow(n)));
    world.write(HOLDER, "1 to 3", 30);
    world.write(&shadow(2), "?", 5);
    world.bad.insert(path(&shadow(2)), "it does not begin as it did".into());
    let plan = world.plan();
    assert_eq!(step(&plan, &shadow(2)).code, Code::Damaged, "{}", step(&plan, &shadow(2)).reason);
}

/// Base and 1 to 3 were published, 1 and 2 merged into 3 on the target.
fn merged_there(proved: bool) -> World {
    let mut world = World::with_aip(4);
    world.run();
    world.erase(&aip(1));
    world.erase(&aip(2));
    world.write(&aip(3), "1 to 3", 300);
    if proved {
        let version = world.held[&path(&aip(3))].version.to_string();
        let recorded = world.records.get_mut(&path(&aip(3))).unwrap();
        (recorded.size, recorded.target_version) = (300, Some(version));
        world.spans.insert(path(&aip(3)), Span { first: 1, last: 3 });
    }
    world
}

#[test]
fn what_a_holder_holds_is_not_sent_again_while_the_holder_stays() {
    let held = |world: &World| [1, 2].map(|n| step(&world.plan(), &aip(n)).code);
    let mut written = merged_there(true);
    written.options.sync = true;
    written.unsettle(&aip(3));
    assert_eq!(held(&written), [Code::Covered; 2]);
    let mut kept = merged_there(true);
    kept.remove(&aip(3));
    assert_eq!(held(&kept), [Code::Covered; 2]);
    let mut doubted = merged_there(false);
    doubted.options.sync = true;
    doubted.remove(&aip(3));
    assert_eq!(held(&doubted), [Code::Unproven; 2]);
}

fn timed(number: u64) -> String {
    let kind = if number == 0 { "aiv" } else { "aii" };
    format!("vm/0000000{number}-0000-0000-0000-000000000000_0.{kind}")
}

#[test]
fn an_image_that_the_source_removed_holds_nothing_for_that() {
    let mut world = World::default();
    (0..=2).for_each(|n| world.file(&timed(n), 100 + n, 10 * n as i64 + 1));
    world.run();
    world.remove(&timed(2));
    // Written between the two, and found late.
    world.file(&timed(3), 103, 15);
    assert_eq!(work(&world.plan()), [format!("copy {}", timed(3))]);
}

#[test]
fn what_was_written_after_the_holder_is_not_held() {
    let mut world = World::default();
    (0..=3).for_each(|n| world.file(&timed(n), 100 + n, 10 * n as i64 + 1));
    world.run();
    world.erase(&timed(1));
    world.erase(&timed(2));
    world.write(&timed(3), "1 to 3", 300);
    world.unsettle(&timed(3));
    assert_eq!([1, 2].map(|n| step(&world.plan(), &timed(n)).code), [Code::Unproven; 2]);
    world.file(&timed(4), 104, 41);
    assert_eq!(step(&world.plan(), &timed(4)).code, Code::Waiting);
}

#[test]
fn a_foreign_file_under_a_span_is_no_consolidation() {
    let mut world = merged_there(true);
    assert_eq!(step(&world.plan(), &aip(3)).code, Code::Consolidated);
    world.bad.insert(path(&aip(3)), "it does not begin as it did".into());
    assert_ne!(step(&world.plan(), &aip(3)).code, Code::Consolidated);
}

#[test]
fn damage_of_what_the_source_merged_itself_is_mended() {
    let mut world = World::default();
    world.file(&shadow(0), 10, 1);
    world.file(HOLDER, 30, 2);
    world.run();
    world.write(HOLDER, "?", 5);
    assert_eq!(work(&world.plan()), [format!("replace {HOLDER}")]);
}

/// The target merged by header; the source has 1 to 3 upon the base.
fn by_header(shows: &[u64]) -> World {
    let mut world = World::with_qcow2(3);
    world.run();
    for n in (1..=2).filter(|n| !shows.contains(n)) {
        world.erase(&format!("{n}.qcow2"));
    }
    world.write("3.qcow2", "1 to 3", 300);
    world.held.get_mut(&path("3.qcow2")).unwrap().header = Some(qcow2("3.qcow2", Some("base.qcow2")));
    world
}

#[test]
fn damage_beside_a_consolidation_is_mended() {
    let mut world = by_header(&[2]);
    world.write("2.qcow2", "?", 5);
    let plan = world.plan();
    assert_eq!(step(&plan, "2.qcow2").code, Code::Damaged);
    assert!(work(&plan).contains(&"replace 2.qcow2".to_owned()), "{:?}", work(&plan));
}

#[test]
fn a_consolidation_whose_base_is_gone_on_both_sides_is_damage() {
    let mut world = by_header(&[]);
    for name in ["base.qcow2", "1.qcow2"] {
        world.remove(name);
    }
    assert_eq!(step(&world.plan(), "3.qcow2").code, Code::Consolidated);
    world.erase("base.qcow2");
    assert_eq!(step(&world.plan(), "3.qcow2").code, Code::Damaged);
}
