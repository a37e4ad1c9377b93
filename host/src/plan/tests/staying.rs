//! What stays on a mirror although it is gone at the source: one rule at a time, with the others out of its way.

use super::sim::{World, aip, path, qcow2, step, work};
use crate::chain::Span;
use crate::plan::{Code, DeleteFirst, Input, Plan, plan};
use crate::source::{Cause, Doubt, DoubtCause, Unsettled};
use crate::target::{AbsorbedBy, TargetView};

/// A mirror that no limit keeps from deleting.
fn mirror() -> World {
    let mut world = World::default();
    world.options.sync = true;
    world.options.max_delete = 1.0;
    world
}

fn set(host: &str, set: u64, increment: u64) -> String {
    let stem = format!("{host}@a_{:08}_d01_{set:05}", 20_240_100 + set);
    if increment == 0 { format!("{stem}.aiv") } else { format!("{stem}_i{increment:05}.aii") }
}

/// Sets 1 and 2 of one host on both sides, three images each; then the first is gone.
fn rotated() -> World {
    let mut world = mirror();
    for of in 1..=2 {
        (0..3).for_each(|n| world.file(&set("a", of, n), 100 + n, (10 * of + n) as i64));
    }
    world.run();
    (0..3).for_each(|n| world.remove(&set("a", 1, n)));
    world
}

fn unsettled(name: &str) -> Unsettled {
    Unsettled { path: path(name), reason: "still being written".into(), cause: Cause::Unsettled }
}

fn lock(world: &mut World, name: &str) {
    world.held.get_mut(&path(name)).expect("it is on the target").retention = Some(5_000);
}

#[test]
fn a_set_goes_when_all_of_it_was_missed_twice() {
    let mut world = rotated();
    assert_eq!(world.plan().totals.delete, 3);
    world.inventory.absent_since.remove(&path(&set("a", 1, 0)));
    assert_eq!(work(&world.plan()), [] as [String; 0]);
}

#[test]
fn what_may_be_the_parent_of_an_image_that_stays_stays() {
    let mut world = mirror();
    for n in [0, 1, 3] {
        world.file(&set("a", 1, n), 100 + n, n as i64);
    }
    (0..2).for_each(|n| world.file(&set("a", 2, n), 100 + n, 50 + n as i64));
    world.run();
    [0, 1, 3].into_iter().for_each(|n| world.remove(&set("a", 1, n)));
    assert_eq!(world.plan().totals.delete, 3);
    lock(&mut world, &set("a", 1, 3));
    assert_eq!(work(&world.plan()), [] as [String; 0]);
}

/// The target merged 1 to 3 into 3 and still shows 1 and 2, which the source lost.
fn merged_beside() -> World {
    let mut world = mirror();
    (0..=4).for_each(|n| world.file(&aip(n), 100 + n, n as i64 + 1));
    world.run();
    world.write(&aip(3), "1 to 3", 300);
    let version = world.held[&path(&aip(3))].version.to_string();
    let recorded = world.records.get_mut(&path(&aip(3))).unwrap();
    (recorded.size, recorded.target_version) = (300, Some(version));
    world.spans.insert(path(&aip(3)), Span { first: 1, last: 3 });
    world.remove(&aip(1));
    world.remove(&aip(2));
    world
}

#[test]
fn nothing_goes_below_a_consolidation_that_stays() {
    let mut world = merged_beside();
    let plan = world.plan();
    assert_eq!(step(&plan, &aip(3)).code, Code::Consolidated);
    assert_eq!(work(&plan), [] as [String; 0]);
    // The source lost that, too, and 4 needs it.
    world.remove(&aip(3));
    assert_eq!(work(&world.plan()), [] as [String; 0]);
}

#[test]
fn a_file_that_the_source_still_has_does_not_go_with_its_image() {
    let mut world = mirror();
    ["a-b001.spf", "a-b001.md5", "a-b002.spf"].iter().for_each(|name| world.file(name, 10, 1));
    world.run();
    world.remove("a-b001.spf");
    let plan = world.plan();
    assert_eq!(work(&plan), ["delete a-b001.spf"]);
    assert_eq!(step(&plan, "a-b001.spf").files.len(), 1);
}

#[test]
fn what_others_put_there_stays_and_keeps_what_it_builds_on() {
    let mut world = mirror();
    let name = |base: u64, n: u64| match n {
        0 => format!("vol-b{base:03}.spf"),
        n => format!("vol-b{base:03}-i{n:03}.spi"),
    };
    (0..=3).for_each(|n| world.file(&name(1, n), 10 + n, n as i64 + 1));
    world.file(&name(2, 0), 10, 50);
    world.run();
    (1..=3).for_each(|n| world.erase(&name(1, n)));
    world.write("vol-b001-i003-cd.spi", "1 to 3", 30);
    (0..=3).for_each(|n| world.remove(&name(1, n)));
    world.inventory.absent_since.insert(path("vol-b001-i003-cd.spi"), 0);
    assert_eq!(work(&world.plan()), [] as [String; 0]);
}

#[test]
fn a_place_that_may_hide_a_child_keeps_a_set_that_spreads_over_folders() {
    let names = ["vm/base.qcow2", "vm/1.qcow2"];
    let world = || {
        let mut world = mirror();
        world.put(names[0], 10, 1, Some(qcow2(names[0], None)));
        world.put(names[1], 10, 2, Some(qcow2(names[1], Some(names[0]))));
        world.run();
        world.remove(names[1]);
        world
    };
    assert_eq!(work(&world().plan()), [format!("delete {}", names[1])]);
    let mut unreadable = world();
    unreadable.inventory.unreadable.push((path("vm/snapshots"), "EIO".into()));
    assert_eq!(work(&unreadable.plan()), [] as [String; 0]);
    let mut doubted = world();
    doubted.inventory.doubts.push(Doubt {
        place: path("vm/snapshots"),
        cause: DoubtCause::Unproven,
        files: 0,
        bytes: 0,
        example: None,
    });
    assert_eq!(work(&doubted.plan()), [] as [String; 0]);
    // An unfinished file beside it may be a child, too.
    let mut written = world();
    written.inventory.unsettled.push(unsettled("vm/new.qcow2"));
    assert_eq!(work(&written.plan()), [] as [String; 0]);
    let mut elsewhere = world();
    elsewhere.inventory.unreadable.push((path("other"), "EIO".into()));
    assert_eq!(work(&elsewhere.plan()), [format!("delete {}", names[1])]);
}

#[test]
fn what_is_new_of_a_set_needs_it_though_it_cannot_be_copied_yet() {
    let mut world = rotated();
    (0..3).for_each(|n| world.file(&set("a", 1, n), 100 + n, 10 + n as i64));
    world.run();
    (0..3).for_each(|n| world.remove(&set("a", 1, n)));
    world.file(&set("a", 1, 3), 5_000, 14);
    world.capabilities.largest_file = Some(1_000);
    let plan = world.plan();
    assert_eq!(step(&plan, &set("a", 1, 3)).code, Code::Refused);
    assert_eq!(work(&plan), [] as [String; 0]);
}

#[test]
fn other_files_of_a_place_that_cannot_be_read_or_was_missed_once_stay() {
    let world = || {
        let mut world = mirror();
        world.options.include_other = true;
        world.file(&aip(0), 100, 1);
        ["x/a.txt", "b.txt"].iter().for_each(|name| world.file(name, 1, 1));
        world.run();
        world.remove("x/a.txt");
        world
    };
    assert_eq!(work(&world().plan()), ["delete x/a.txt"]);
    let mut unreadable = world();
    unreadable.inventory.unreadable.push((path("x"), "EIO".into()));
    assert_eq!(work(&unreadable.plan()), [] as [String; 0]);
    let mut once = world();
    once.inventory.absent_since.clear();
    assert_eq!(work(&once.plan()), [] as [String; 0]);
    let mut written = world();
    written.inventory.unsettled.push(unsettled("x/a.txt"));
    assert_eq!(work(&written.plan()), [] as [String; 0]);
    let mut kept = world();
    kept.options.sync = false;
    assert_eq!(work(&kept.plan()), [] as [String; 0]);
    let mut locked = world();
    lock(&mut locked, "x/a.txt");
    assert_eq!(work(&locked.plan()), [] as [String; 0]);
    let mut touched = world();
    touched.write("x/a.txt", "?", 1);
    assert_eq!(work(&touched.plan()), [] as [String; 0]);
}

#[test]
fn only_a_sound_image_leaves_a_host_anything() {
    let mut world = mirror();
    for host in ["a", "b"] {
        (0..3).for_each(|n| world.file(&set(host, 1, n), 100 + n, n as i64));
    }
    world.run();
    (1..3).for_each(|n| world.remove(&set("a", 1, n)));
    assert_eq!(world.plan().totals.delete, 2);
    // The base that stays is damaged, and cannot be mended now.
    world.write(&set("a", 1, 0), "?", 50);
    lock(&mut world, &set("a", 1, 0));
    let plan = world.plan();
    assert_eq!(plan.totals.delete, 0, "{:?}", work(&plan));
    assert_eq!(step(&plan, &set("a", 1, 2)).code, Code::Held);
}

#[test]
fn where_an_older_set_comes_back_it_comes_before_the_newer_goes() {
    let mut world = mirror();
    for host in ["a", "b"] {
        (0..3).for_each(|n| world.file(&set(host, 1, n), 100 + n, 10 + n as i64));
    }
    world.run();
    (0..3).for_each(|n| world.remove(&set("a", 1, n)));
    world.file(&set("a", 0, 0), 100, 1);
    let plan = world.plan();
    assert_eq!(plan.totals.delete, 3, "{:?}", work(&plan));
    let copied = plan.steps.iter().position(|s| s.image == path(&set("a", 0, 0))).unwrap();
    let goes = |n: u64| step(&plan, &set("a", 1, n)).after.contains(&copied);
    assert!((0..3).all(goes));
    assert_eq!(step(&plan, &set("a", 1, 0)).code, Code::GoneAtSource, "an older one takes nobody's place");
    // Nor does it come where a part of it cannot.
    world.file(&set("a", 0, 1), 5_000, 2);
    world.capabilities.largest_file = Some(1_000);
    assert_eq!(world.plan().totals.delete, 0);
}

#[test]
fn nothing_goes_first_for_a_successor_of_which_only_the_base_is_there() {
    let mut world = rotated();
    (0..3).for_each(|n| world.remove(&set("a", 2, n)));
    world.run();
    world.file(&set("b", 1, 0), 100, 1);
    world.run();
    world.file(&set("a", 3, 0), 100, 60);
    world.file(&set("a", 3, 1), 100, 61);
    world.unsettle(&set("a", 3, 1));
    world.options.delete_first = DeleteFirst::Proved;
    let plan = world.plan();
    assert_eq!(plan.totals.delete, 0, "{:?}", work(&plan));
}

#[test]
fn with_nothing_else_at_the_source_nothing_goes_first_unless_the_last_may() {
    let mut world = rotated();
    world.run();
    (0..3).for_each(|n| world.file(&set("a", 1, n), 100 + n, 10 + n as i64));
    world.run();
    (0..3).for_each(|n| world.remove(&set("a", 1, n)));
    (0..3).for_each(|n| world.remove(&set("a", 2, n)));
    (0..3).for_each(|n| lock(&mut world, &set("a", 2, n)));
    world.file(&set("a", 3, 0), 100, 60);
    world.options.delete_first = DeleteFirst::Proved;
    let plan = world.plan();
    assert_eq!(work(&plan), [format!("copy {}", set("a", 3, 0))]);
    world.options.delete_first = DeleteFirst::Last;
    assert_eq!(world.plan().totals.delete, 3);
}

fn planned(world: &World, view: &TargetView) -> Plan {
    plan(&Input {
        inventory: &world.inventory,
        source: &world.chains(),
        target: view,
        options: &world.options,
        baseline: None,
        capabilities: &world.capabilities,
        names: &world.names,
        now_ns: world.now_ns,
    })
}

#[test]
fn a_successor_that_is_not_sound_on_the_target_takes_no_place() {
    let world = rotated();
    assert_eq!(planned(&world, &world.view()).totals.delete, 3);
    let second = path(&set("a", 2, 0));
    // Only an unsigned manifest speaks for it.
    let mut view = world.view();
    view.vouched.insert(second.clone());
    assert_eq!(planned(&world, &view).totals.delete, 0);
    // An interrupted replacement left it between old and new.
    let mut view = world.view();
    view.in_transition.insert(world.records[&second].set.clone());
    assert_eq!(planned(&world, &view).totals.delete, 0);
}

#[test]
fn folders_that_went_on_side_by_side_are_not_each_others_successors() {
    let name = |host: &str, n: u64| {
        format!("{host}/{n:08}-0000-0000-0000-000000000000_0.ai{}", ["v", "i"][n.min(1) as usize])
    };
    let mut world = mirror();
    for (host, from, apart) in [("vm/1001", 1, 10), ("vm/1002", 2, 10), ("vm/1003", 100, 1)] {
        (0..3).for_each(|n| world.file(&name(host, n), 100, from + apart * n as i64));
    }
    world.run();
    (0..3).for_each(|n| world.remove(&name("vm/1001", n)));
    assert_eq!(world.plan().totals.delete, 0);
    // One after the other, the older takes no place of the newer.
    let mut world = mirror();
    for (host, from) in [("vm/1001", 1), ("vm/1003", 100)] {
        (0..3).for_each(|n| world.file(&name(host, n), 100, from + n as i64));
    }
    world.run();
    (0..3).for_each(|n| world.remove(&name("vm/1003", n)));
    assert_eq!(world.plan().totals.delete, 0);
}

#[test]
fn nothing_goes_first_for_a_successor_without_its_base() {
    let mut world = mirror();
    (0..3).for_each(|n| world.file(&set("a", 1, n), 100 + n, n as i64));
    world.file(&set("b", 1, 0), 100, 1);
    world.run();
    (0..3).for_each(|n| world.remove(&set("a", 1, n)));
    world.file(&set("a", 2, 1), 100, 60);
    world.options.delete_first = DeleteFirst::Last;
    assert_eq!(world.plan().totals.delete, 0);
}

#[test]
fn files_of_an_image_go_with_what_becomes_of_that() {
    let world = || {
        let mut world = mirror();
        ["a-b001.spf", "a-b001.md5", "a-b001.sp1"].iter().for_each(|name| world.file(name, 10, 1));
        world.run();
        world
    };
    // The image is held: nothing of it goes.
    let mut held = world();
    held.remove("a-b001.md5");
    assert_eq!(work(&held.plan()), ["delete a-b001.md5"]);
    held.file("a-b001.spf", 20, 50);
    lock(&mut held, "a-b001.spf");
    assert_eq!(work(&held.plan()), [] as [String; 0]);
    // It is replaced: what it has no more goes, after that.
    let mut replaced = world();
    replaced.file("a-b001.spf", 20, 50);
    replaced.remove("a-b001.sp1");
    let plan = replaced.plan();
    assert_eq!(work(&plan), ["replace a-b001.spf", "delete a-b001.sp1"]);
    let [first, second] = [0, 1].map(|n| {
        let mut acts = plan.steps.iter().enumerate().filter(|(_, s)| !s.files.is_empty());
        acts.nth(n).expect("two steps act").0
    });
    assert!(plan.steps[second].after.contains(&first));
    // Somebody else's file beside it keeps it.
    let mut foreign = world();
    foreign.file("a-b002.spf", 10, 9);
    foreign.run();
    ["a-b001.spf", "a-b001.md5", "a-b001.sp1"].iter().for_each(|name| foreign.remove(name));
    assert_eq!(work(&foreign.plan()), ["delete a-b001.spf"]);
    foreign.records.remove(&path("a-b001.md5"));
    assert_eq!(work(&foreign.plan()), [] as [String; 0]);
}

#[test]
fn a_sets_file_vouches_for_no_image_and_stays_with_the_last_of_them() {
    let names = ["JobD2024-01-01T220000.vbk", "JobD2024-01-02T220000.vib", "Job.vbm"];
    let other = "OtherD2024-01-01T220000.vbk";
    let world = || {
        let mut world = mirror();
        names.iter().chain(&[other]).for_each(|name| world.file(name, 10, 1));
        world.run();
        world
    };
    let mut alone = world();
    names[..2].iter().chain(&[other]).for_each(|name| alone.remove(name));
    alone.options.allow_deletes = true;
    let plan = alone.plan();
    assert_eq!(work(&plan), [] as [String; 0]);
    assert!(step(&plan, other).reason.contains("no image on this target"), "{}", step(&plan, other).reason);
    let mut locked = world();
    names.iter().for_each(|name| locked.remove(name));
    locked.run();
    locked.allow_held();
    assert_eq!(locked.plan().totals.delete, 3);
    lock(&mut locked, names[1]);
    assert_eq!(work(&locked.plan()), [] as [String; 0]);
}

#[test]
fn a_merge_keeps_what_it_did_not_take_in() {
    let mut world = mirror();
    (0..=4).for_each(|n| world.file(&aip(n), 100 + n, n as i64 + 1));
    world.run();
    world.remove(&aip(1));
    world.remove(&aip(2));
    // An earlier run found that 3 holds 2; nobody knows of 1.
    world.absorbed.insert(path(&aip(2)), AbsorbedBy { holder: path(&aip(3)), proved: true });
    let plan = world.plan();
    assert_eq!(step(&plan, &aip(1)).code, Code::Protected, "{:?}", work(&plan));
}

#[test]
fn what_a_new_image_may_build_on_stays_though_its_record_proves_little() {
    // By time.
    let timed = |n: u64| {
        let kind = if n == 0 { "aiv" } else { "aii" };
        format!("vm/0000000{n}-0000-0000-0000-000000000000_0.{kind}")
    };
    let mut world = mirror();
    (0..3).for_each(|n| world.file(&timed(n), 100 + n, 10 * n as i64 + 1));
    world.run();
    world.remove(&timed(2));
    assert_eq!(world.plan().totals.delete, 1);
    world.file(&timed(3), 103, 41);
    assert_eq!(world.plan().totals.delete, 0);
    // By header.
    let mut world = World::with_qcow2(2);
    world.options = mirror().options;
    world.run();
    world.remove("1.qcow2");
    world.remove("2.qcow2");
    world.put("3.qcow2", 103, 40, Some(qcow2("3.qcow2", Some("2.qcow2"))));
    world.records.get_mut(&path("2.qcow2")).unwrap().blake3 = None;
    assert_eq!(world.plan().totals.delete, 0);
    // By number.
    let mut world = World::with_aip(2);
    world.options = mirror().options;
    world.run();
    world.remove(&aip(2));
    world.file(&aip(3), 103, 40);
    world.records.get_mut(&path(&aip(2))).unwrap().blake3 = None;
    assert_eq!(world.plan().totals.delete, 0);
}

#[test]
fn a_name_takes_in_only_its_own_numbers() {
    let name = |n: u64| if n == 0 { "vol-b001.spf".into() } else { format!("vol-b001-i{n:03}.spi") };
    let mut world = mirror();
    world.options.max_delete = 0.0;
    (0..=5).for_each(|n| world.file(&name(n), 10 + n, n as i64 + 1));
    world.run();
    [1, 2, 3, 5].into_iter().for_each(|n| world.remove(&name(n)));
    world.file("vol-b001-i003-cd.spi", 30, 50);
    let plan = world.plan();
    assert_eq!(step(&plan, &name(5)).code, Code::OverDeleteLimit);
    assert_eq!(plan.totals.delete, 3, "{:?}", work(&plan));
}

#[test]
fn what_was_an_image_is_not_replaced_by_another_file() {
    let mut world = World::with_qcow2(0);
    world.options.include_other = true;
    world.run();
    world.put("base.qcow2", 50, 40, None);
    let plan = world.plan();
    assert_eq!((work(&plan), step(&plan, "base.qcow2").code), (Vec::new(), Code::NotAnImage));
}

/// Somebody put the image there; the source's file of that name is empty.
#[test]
fn what_lies_there_as_an_image_is_not_replaced_by_another_file() {
    let mut world = World::with_qcow2(0);
    world.options.include_other = true;
    world.run();
    world.lose_records();
    world.put("base.qcow2", 0, 40, None);
    let plan = world.plan();
    assert_eq!((work(&plan), step(&plan, "base.qcow2").code), (Vec::new(), Code::NotAnImage));
}

#[test]
fn a_successor_with_an_unproven_consolidation_takes_no_place() {
    let mut world = rotated();
    world.erase(&set("a", 2, 1));
    world.write(&set("a", 2, 2), "1 and 2", 300);
    let plan = world.plan();
    assert_eq!(step(&plan, &set("a", 2, 2)).code, Code::Unproven);
    assert_eq!(plan.totals.delete, 0, "{:?}", work(&plan));
    world.accepted.push(path(&set("a", 2, 2)));
    assert_eq!(world.plan().totals.delete, 3);
}

#[test]
fn a_side_car_of_what_the_target_merged_stays_with_it() {
    let name = |n: u64| if n == 0 { "vol-b001.spf".into() } else { format!("vol-b001-i{n:03}.spi") };
    let mut world = mirror();
    (0..=3).for_each(|n| world.file(&name(n), 10 + n, n as i64 + 1));
    world.file("vol-b001-i003.md5", 3, 4);
    world.run();
    [1, 2].into_iter().for_each(|n| world.erase(&name(n)));
    world.remove("vol-b001-i003.md5");
    world.write(&name(3), "1 to 3", 300);
    let version = world.held[&path(&name(3))].version.to_string();
    let recorded = world.records.get_mut(&path(&name(3))).unwrap();
    (recorded.size, recorded.target_version) = (300, Some(version));
    world.spans.insert(path(&name(3)), Span { first: 1, last: 3 });
    let plan = world.plan();
    assert_eq!(step(&plan, &name(3)).code, Code::Consolidated);
    assert_eq!(work(&plan), [] as [String; 0]);
}

#[test]
fn what_an_unsigned_manifest_says_takes_nothing_in() {
    let mut world = mirror();
    (0..=4).for_each(|n| world.file(&aip(n), 100 + n, n as i64 + 1));
    world.run();
    world.remove(&aip(1));
    world.remove(&aip(2));
    world.spans.insert(path(&aip(3)), Span { first: 1, last: 3 });
    let mut view = world.view();
    view.vouched.insert(path(&aip(3)));
    let plan = planned(&world, &view);
    assert_ne!(step(&plan, &aip(2)).code, Code::GoneAtSource);
    assert_eq!(plan.totals.delete, 0, "{:?}", work(&plan));
}
