//! When deletions happen: before the copies to make room, or only after a while.

use super::sim::{World, path, step, work};
use crate::notice::NoticeCode;
use crate::plan::{Action, Code, DeleteFirst};

const DAY: i64 = 86_400 * 1_000_000_000;

fn dump(day: u64) -> String {
    format!("vzdump-qemu-100-2024_01_{day:02}-00_00_00.vma.zst")
}

/// Two backups on both sides; then the first is rotated out and two new ones come.
fn full() -> World {
    let mut world = World::default();
    world.options.sync = true;
    (1..=2).for_each(|day| world.file(&dump(day), 100, day as i64));
    world.run();
    world.remove(&dump(1));
    (3..=4).for_each(|day| world.file(&dump(day), 100, day as i64));
    world
}

#[test]
fn deletions_come_last_unless_room_is_wanted_first() {
    let world = full();
    let copies = [3, 4].map(|day| format!("copy {}", dump(day)));
    assert_eq!(work(&world.plan())[..2], copies);
    let mut world = full();
    world.options.delete_first = DeleteFirst::Proved;
    let plan = world.plan();
    assert_eq!(work(&plan)[0], format!("delete {}", dump(1)));
    assert_eq!(work(&plan)[1..], copies);
    let deletion = &plan.steps[0];
    assert_eq!((deletion.code, deletion.after.len()), (Code::DeleteFirst, 0));
    assert!(deletion.reason.contains("--delete-first"), "{}", deletion.reason);
    assert!(plan.notices.is_empty(), "the second takes its place and is there: {:?}", plan.notices);
    world.run();
    assert!(world.plan().steps.iter().all(|s| s.code == Code::UpToDate));
}

#[test]
fn the_last_restorable_set_does_not_go_first_unless_the_user_says_so() {
    let mut world = full();
    world.remove(&dump(2));
    // Something else vouches for the source.
    world.file("vzdump-qemu-200-2024_01_01-00_00_00.vma.zst", 100, 1);
    world.options.sync = false;
    world.options.filter.include = vec!["*200*".into()];
    world.run();
    (world.options.sync, world.options.filter) = (true, Default::default());
    world.options.delete_first = DeleteFirst::Proved;
    let plan = world.plan();
    assert_eq!(work(&plan)[..2], [3, 4].map(|day| format!("copy {}", dump(day))), "{:?}", work(&plan));
    assert!(plan.steps.iter().filter(|s| s.action == Action::Delete).all(|s| !s.after.is_empty()));
    world.options.delete_first = DeleteFirst::Last;
    let plan = world.plan();
    assert_eq!(work(&plan)[..2], [1, 2].map(|day| format!("delete {}", dump(day))), "{:?}", work(&plan));
    assert!(plan.steps[0].reason.contains("before"), "{}", plan.steps[0].reason);
    let notice = plan.notices.iter().find(|n| n.code == NoticeCode::DeleteFirst).expect("it is told");
    assert!(!notice.failing() && notice.text.contains("--delete-first"), "{notice:?}");
}

#[test]
fn nothing_goes_first_whose_successor_is_not_finished_at_the_source() {
    let mut world = World::default();
    world.options.sync = true;
    world.options.delete_first = DeleteFirst::Last;
    world.file(&dump(1), 100, 1);
    world.file("vzdump-qemu-200-2024_01_01-00_00_00.vma.zst", 100, 1);
    world.run();
    world.remove(&dump(1));
    world.file(&dump(2), 100, 2);
    world.unsettle(&dump(2));
    let plan = world.plan();
    assert_eq!(work(&plan), [] as [String; 0]);
    assert!(step(&plan, &dump(1)).reason.contains("takes its place"));
}

#[test]
fn the_only_host_goes_first_when_even_that_is_wanted() {
    let mut world = World::default();
    world.options.sync = true;
    world.file(&dump(1), 100, 1);
    world.run();
    world.remove(&dump(1));
    world.file(&dump(2), 100, 2);
    world.options.delete_first = DeleteFirst::Proved;
    assert_eq!(work(&world.plan()), [format!("copy {}", dump(2))], "the next run deletes");
    world.options.delete_first = DeleteFirst::Last;
    assert_eq!(work(&world.plan()), [format!("delete {}", dump(1)), format!("copy {}", dump(2))]);
}

#[test]
fn what_would_be_deleted_lies_for_a_while_first() {
    let mut world = full();
    world.options.delete_after_ns = 7 * DAY;
    world.now_ns = 100 * DAY;
    let plan = world.run();
    assert_eq!(plan.totals.delete, 0);
    let waits = step(&plan, &dump(1));
    assert_eq!(waits.code, Code::DeleteLater);
    assert!(waits.reason.contains("kept until 1970-04-18"), "{}", waits.reason);
    let told: Vec<_> = plan.notices.iter().map(|n| &n.code).collect();
    assert_eq!(told, [&NoticeCode::DeletesLater]);
    world.now_ns = 107 * DAY - 1;
    assert_eq!(world.run().totals.delete, 0);
    world.now_ns = 107 * DAY;
    assert_eq!(work(&world.run()), [format!("delete {}", dump(1))]);
    world.run();
    assert!(world.deletes.found.is_empty(), "what is gone is forgotten");
}

#[test]
fn what_comes_back_lives_and_its_time_begins_anew() {
    let mut world = full();
    world.options.delete_after_ns = 7 * DAY;
    world.now_ns = 100 * DAY;
    world.run();
    world.file(&dump(1), 100, 1);
    world.now_ns = 104 * DAY;
    assert!(world.run().steps.iter().all(|s| s.code == Code::UpToDate));
    assert!(world.deletes.found.is_empty());
    world.remove(&dump(1));
    world.run();
    world.now_ns = 108 * DAY;
    assert_eq!(world.run().totals.delete, 0);
    world.now_ns = 111 * DAY;
    assert_eq!(world.run().totals.delete, 1);
}

#[test]
fn a_set_waits_as_one() {
    let mut world = World::with_aip(3);
    world.options.sync = true;
    world.options.delete_after_ns = DAY;
    world.run();
    (0..=3).for_each(|n| world.remove(&super::sim::aip(n)));
    world.file("srv@a_20240201_d01_00002.aiv", 5, 99);
    world.run(); // the new set is there from now on
    assert_eq!(world.run().totals.delete, 0);
    world.now_ns += DAY;
    assert_eq!(world.run().totals.delete, 4, "none waits for its child's day to be over first");
    assert!(world.held.contains_key(&path("srv@a_20240201_d01_00002.aiv")));
}
