//! The order in which units may go, step by step.

use super::*;
use crate::plan::FileStep;
use offsite_plugin_api::TargetPath;

fn step(name: &str, action: Action, after: &[usize], group: Option<u32>) -> Step {
    let path = TargetPath::new(name).unwrap();
    let file = match action {
        Action::Copy => FileAction::Copy,
        Action::Replace => FileAction::Replace,
        Action::Delete => FileAction::Delete,
        Action::Skip => FileAction::Keep,
    };
    Step {
        action,
        image: path.clone(),
        set: "s".into(),
        format: None,
        bytes: 1,
        code: Code::New,
        reason: "".into(),
        files: vec![FileStep { action: file, path: path.clone(), target: path, bytes: 1 }],
        after: after.to_vec(),
        not_restorable: false,
        span: None,
        group,
        merge: None,
        proof: None,
        parent: None,
        merged: false,
        compare_only: None,
    }
}

fn schedule(steps: Vec<Step>) -> Schedule {
    Schedule::new(&Plan { steps, ..Plan::default() })
}

fn free(_: &str) -> bool {
    false
}

#[test]
fn a_child_is_staged_early_and_published_after_its_parent() {
    let mut s = schedule(vec![step("base", Action::Copy, &[], None), step("inc", Action::Copy, &[0], None)]);
    assert_eq!(s.next(free), Task::Stage { unit: 0, file: 0 });
    assert_eq!(s.next(free), Task::Stage { unit: 1, file: 0 });
    s.staged(1);
    assert_eq!(s.next(free), Task::Wait);
    s.staged(0);
    assert_eq!(s.next(free), Task::Act { unit: 0 });
    assert_eq!(s.next(free), Task::Wait);
    assert_eq!(s.acted(0), SetState { left: 1, acting: 0 });
    assert_eq!(s.next(free), Task::Act { unit: 1 });
    assert_eq!(s.acted(1), SetState { left: 0, acting: 0 });
    assert_eq!(s.next(free), Task::End);
}

#[test]
fn helpers_take_small_files_only_and_never_a_child_before_its_parent() {
    let sized = |name: &str, bytes: u64, after: &[usize]| {
        let mut step = step(name, Action::Copy, after, None);
        step.files[0].bytes = bytes;
        step
    };
    let mut s = schedule(vec![
        sized("base", SMALL + 1, &[]),
        sized("inc", 5, &[0]),
        sized("other", SMALL, &[]),
        sized("large", SMALL + 1, &[]),
    ]);
    assert_eq!(s.small_ready(), 2);
    assert_eq!(s.next_small(free), Task::Stage { unit: 1, file: 0 });
    assert_eq!(s.next(free), Task::Stage { unit: 0, file: 0 });
    assert_eq!(s.next(free), Task::Stage { unit: 2, file: 0 });
    s.staged(1);
    assert_eq!(s.next_small(free), Task::Wait, "neither the large file nor the child");
    s.staged(2);
    assert_eq!(s.next_small(free), Task::Act { unit: 2 });
    s.staged(0);
    assert_eq!(s.next_small(free), Task::Wait, "the base may be sent only now");
    assert_eq!(s.next(free), Task::Act { unit: 0 });
    assert_eq!(s.next_small(free), Task::Wait);
    s.acted(0);
    assert_eq!(s.next_small(free), Task::Act { unit: 1 });
    assert_eq!(s.next(free), Task::Stage { unit: 3, file: 0 });
}

#[test]
fn followers_are_ready_but_for_the_one_before_them() {
    let copy = |name: &str, after: &[usize]| step(name, Action::Copy, after, None);
    let mut s = schedule(vec![
        copy("a", &[]),
        copy("b", &[0]),
        copy("c", &[1]),
        copy("d", &[2]),
        copy("e", &[3, 5]),
        copy("x", &[]),
    ]);
    assert!(s.followers(0, 9).is_empty());
    for unit in [1, 2, 4] {
        s.next(free);
        s.staged(unit);
    }
    assert_eq!(s.followers(0, 9), [1, 2], "d is not staged");
    assert_eq!(s.followers(0, 1), [1]);
    s.next(free);
    s.staged(3);
    assert_eq!(s.followers(0, 9), [1, 2, 3], "e waits for x, too");
}

#[test]
fn a_failure_takes_its_descendants_along_and_nothing_else() {
    let mut s = schedule(vec![
        step("base", Action::Copy, &[], None),
        step("inc1", Action::Copy, &[0], None),
        step("inc2", Action::Copy, &[1], None),
        step("other", Action::Copy, &[], None),
    ]);
    assert_eq!(s.next(free), Task::Stage { unit: 0, file: 0 });
    assert_eq!(s.failed(0, false), [1, 2]);
    assert_eq!(s.next(free), Task::Stage { unit: 3, file: 0 });
    s.staged(3);
    assert_eq!(s.next(free), Task::Act { unit: 3 });
    s.acted(3);
    assert_eq!(s.next(free), Task::End);
}

#[test]
fn deletions_wait_for_every_transfer_even_of_other_sets() {
    let mut s = schedule(vec![
        step("old2", Action::Delete, &[], None),
        step("old1", Action::Delete, &[0], None),
        step("new", Action::Copy, &[], None),
    ]);
    assert_eq!(s.next(free), Task::Stage { unit: 2, file: 0 });
    assert_eq!(s.next(free), Task::Wait);
    s.staged(2);
    assert_eq!(s.next(free), Task::Act { unit: 2 });
    assert_eq!(s.next(free), Task::Wait);
    s.acted(2);
    assert_eq!(s.next(free), Task::Act { unit: 0 });
    assert_eq!(s.next(free), Task::Wait);
    s.acted(0);
    assert_eq!(s.next(free), Task::Act { unit: 1 });
    s.acted(1);
    assert_eq!(s.next(free), Task::End);
}

#[test]
fn deletions_that_make_room_come_before_every_transfer() {
    let mut first = step("old", Action::Delete, &[], None);
    first.code = Code::DeleteFirst;
    let mut s =
        schedule(vec![first, step("new", Action::Copy, &[], None), step("last", Action::Delete, &[], None)]);
    assert_eq!(s.next(free), Task::Act { unit: 0 });
    assert_eq!(s.next(free), Task::Wait);
    s.failed(0, true); // no reason not to copy what fits
    assert_eq!(s.next(free), Task::Stage { unit: 1, file: 0 });
    s.staged(1);
    assert_eq!(s.next(free), Task::Act { unit: 1 });
    s.acted(1);
    assert_eq!(s.next(free), Task::Act { unit: 2 });
}

#[test]
fn what_finds_no_room_is_tried_once_more_after_the_deletions() {
    let mut s = schedule(vec![
        step("large", Action::Copy, &[], None),
        step("onto-large", Action::Copy, &[0], None),
        step("fits", Action::Copy, &[], None),
        step("replaced-by-large", Action::Delete, &[0], None),
        step("rotated", Action::Delete, &[], None),
    ]);
    assert_eq!(s.next(free), Task::Stage { unit: 0, file: 0 });
    assert!(s.set_aside(0, false));
    assert_eq!(s.next(free), Task::Stage { unit: 1, file: 0 });
    assert_eq!(s.next(free), Task::Stage { unit: 2, file: 0 });
    s.staged(1);
    s.staged(2);
    assert_eq!(s.next(free), Task::Act { unit: 2 });
    s.acted(2);
    // Its child is staged and waits for it; what needs neither goes on.
    assert_eq!(s.next(free), Task::Act { unit: 4 });
    s.acted(4);
    assert_eq!(s.next(free), Task::Stage { unit: 0, file: 0 });
    s.staged(0);
    for unit in [0, 1, 3] {
        assert_eq!(s.next(free), Task::Act { unit });
        s.acted(unit);
    }
    assert_eq!(s.next(free), Task::End);
}

#[test]
fn what_found_no_room_is_tried_again_though_its_other_files_were_queued() {
    let mut image = step("image", Action::Copy, &[], None);
    image.files.push(FileStep { path: TargetPath::new("image.md5").unwrap(), ..image.files[0].clone() });
    let mut s = schedule(vec![image]);
    assert_eq!(s.next(free), Task::Stage { unit: 0, file: 0 });
    assert!(s.set_aside(0, false));
    assert_eq!(s.next(free), Task::Stage { unit: 0, file: 0 }, "or the run ends and says nothing of it");
    assert!(!s.set_aside(0, false));
    s.failed(0, false);
    assert_eq!(s.next(free), Task::End);
}

#[test]
fn what_failed_before_is_not_counted_again_when_its_parent_finds_no_room() {
    let mut s = schedule(vec![
        step("base", Action::Copy, &[], None),
        step("inc", Action::Copy, &[0], None),
        step("old", Action::Delete, &[], None),
    ]);
    assert_eq!(s.next(free), Task::Stage { unit: 0, file: 0 });
    assert_eq!(s.next(free), Task::Stage { unit: 1, file: 0 });
    assert_eq!(s.failed(1, false), [] as [usize; 0]);
    assert!(s.set_aside(0, false));
    assert_eq!(s.next(free), Task::Act { unit: 2 }, "the deletion makes room");
}

#[test]
fn no_room_twice_is_a_failure() {
    let mut s = schedule(vec![
        step("large", Action::Copy, &[], None),
        step("replaced-by-large", Action::Delete, &[0], None),
        step("rotated", Action::Delete, &[], None),
    ]);
    s.next(free);
    assert!(s.set_aside(0, false));
    assert_eq!(s.next(free), Task::Act { unit: 2 });
    s.acted(2);
    assert_eq!(s.next(free), Task::Stage { unit: 0, file: 0 });
    assert!(!s.set_aside(0, false));
    assert_eq!(s.failed(0, false), [1], "nothing goes for whose place there is no room");
    assert_eq!(s.next(free), Task::End);
}

#[test]
fn a_group_is_published_when_all_of_it_is_staged() {
    let mut s = schedule(vec![
        step("base", Action::Replace, &[], Some(1)),
        step("inc", Action::Replace, &[0], Some(1)),
        step("next", Action::Copy, &[1], None),
    ]);
    assert_eq!(s.units.len(), 2);
    assert_eq!(s.next(free), Task::Stage { unit: 0, file: 0 });
    assert_eq!(s.next(free), Task::Stage { unit: 0, file: 1 });
    assert_eq!(s.next(free), Task::Stage { unit: 1, file: 0 });
    s.staged(0);
    s.staged(1);
    assert_eq!(s.next(free), Task::Wait);
    s.staged(0);
    assert_eq!(s.next(|set| set == "s"), Task::Wait);
    assert_eq!(s.next(free), Task::Act { unit: 0 });
}

#[test]
fn steps_that_wait_for_each_other_end_the_run_instead_of_hanging_it() {
    let mut s = schedule(vec![step("a", Action::Delete, &[1], None), step("b", Action::Delete, &[0], None)]);
    assert_eq!(s.next(free), Task::End);
    assert_eq!(s.stranded(), [0, 1]);
}

#[test]
fn what_is_set_aside_with_its_first_file_is_tried_again_though_others_of_it_still_wait() {
    let mut two = step("image", Action::Copy, &[], None);
    two.files.push(two.files[0].clone());
    let mut s = schedule(vec![two]);
    for _ in 0..2 {
        assert_eq!(s.next(free), Task::Stage { unit: 0, file: 0 });
        assert_eq!(s.set_aside(0, false), s.units[0].standing == Standing::SetAside);
    }
    s.failed(0, false);
    assert_eq!(s.units[0].standing, Standing::Failed, "it is told");
    assert_eq!(s.next(free), Task::End);
}

#[test]
fn a_group_without_room_is_taken_apart_and_its_steps_come_one_after_the_other() {
    let mut s = schedule(vec![
        step("base", Action::Replace, &[], Some(1)),
        step("inc", Action::Replace, &[0], Some(1)),
        step("later", Action::Copy, &[1], None),
    ]);
    assert_eq!(s.next(free), Task::Stage { unit: 0, file: 0 });
    assert!(s.set_aside(0, false));
    assert_eq!(s.next(free), Task::Stage { unit: 1, file: 0 });
    s.staged(1);
    assert_eq!(s.next(free), Task::Stage { unit: 0, file: 0 });
    assert!(!s.set_aside(0, false) && s.one_by_one(0, false));
    assert_eq!(s.next(free), Task::Stage { unit: 0, file: 0 });
    s.staged(0);
    assert_eq!(s.next(free), Task::Act { unit: 0 });
    assert_eq!(s.next(free), Task::Wait, "the next one is staged when this one is there");
    s.acted(0);
    assert_eq!(s.next(free), Task::Stage { unit: 2, file: 0 });
    s.staged(2);
    assert_eq!(s.next(free), Task::Act { unit: 2 });
    assert_eq!(s.next(free), Task::Wait);
    s.acted(2);
    assert_eq!(s.next(free), Task::Act { unit: 1 });
    s.acted(1);
    assert_eq!(s.next(free), Task::End);
}
