//! What is said of files that are not replicated, and what counts as left for the next run.

use super::sim::{World, path, step};
use crate::notice::{NoticeCode, NoticeLevel};
use crate::plan::{Code, Input, Plan, plan};
use crate::source::{Cause, Doubt, DoubtCause, Unsettled};
use crate::target::TargetView;

fn texts(plan: &Plan, code: NoticeCode) -> Vec<&str> {
    plan.notices.iter().filter(|n| n.code == code).map(|n| n.text.as_str()).collect()
}

/// With a target that records alone do not make.
fn plan_of(world: &World, view: &TargetView) -> Plan {
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

fn unsettled(world: &mut World, name: &str, cause: Cause) {
    let reason = "why".to_owned();
    world.inventory.unsettled.push(Unsettled { path: path(name), reason, cause });
}

#[test]
fn what_the_plan_would_not_copy_is_not_left() {
    let mut world = World::with_aip(0);
    for name in ["service.log", "x.tmp", "noext", "disk-b001.spf", "v/vda.full.data.partial"] {
        unsettled(&mut world, name, Cause::Unsettled);
    }
    world.inventory.unsettled[1].cause = Cause::InProgress;
    let code = |world: &World, name: &str| step(&world.plan(), name).code;
    assert_eq!(code(&world, "service.log"), Code::NotRecognised);
    assert_eq!(code(&world, "x.tmp"), Code::NotRecognised);
    for may_be_an_image in ["noext", "disk-b001.spf", "v/vda.full.data.partial"] {
        assert_eq!(code(&world, may_be_an_image), Code::NotSettled, "{may_be_an_image}");
    }
    world.options.include_other = true;
    assert_eq!(code(&world, "service.log"), Code::NotSettled);
    world.options.filter.exclude = vec!["*.log".into(), "disk-*".into(), "noext".into()];
    for name in ["service.log", "disk-b001.spf", "noext"] {
        assert_eq!(code(&world, name), Code::Filtered, "{name}");
    }
    // A side-car goes with its image, not by its own name.
    world.options.filter.exclude.clear();
    world.options.filter.include = vec!["*.spf".into()];
    unsettled(&mut world, "disk-b001.spf.md5", Cause::Unsettled);
    assert_eq!(code(&world, "disk-b001.spf.md5"), Code::NotSettled);
}

#[test]
fn a_file_that_cannot_be_read_is_not_still_being_written() {
    let mut world = World::with_aip(1);
    unsettled(&mut world, "disk-b001.spf", Cause::Unreadable);
    let plan = world.plan();
    assert_eq!(step(&plan, "disk-b001.spf").code, Code::Unreadable);
    let notice = plan.notices.iter().find(|n| n.code == NoticeCode::UnreadableFile).unwrap();
    assert!(notice.failing() && notice.text.contains("disk-b001.spf"), "{notice:?}");
    unsettled(&mut world, "service.log", Cause::Unreadable);
    assert_eq!(step(&world.plan(), "service.log").code, Code::NotRecognised, "nobody asked for it");
}

#[test]
fn a_place_in_doubt_is_told_and_gives_the_reason() {
    let mut world = World::with_aip(0);
    world.file("in/disk-b001.spf", 100, 1);
    world.run();
    world.options.sync = true;
    world.inventory.files.retain(|f| f.path != path("in/disk-b001.spf"));
    let mut doubt = Doubt {
        place: path("in"),
        cause: DoubtCause::Mount { was: "the file system 'nas:/b' (nfs)".into(), now: None },
        files: 1,
        bytes: 100,
        example: Some(path("in/disk-b001.spf")),
    };
    world.inventory.doubts.push(doubt.clone());
    let plan = world.plan();
    let kept = step(&plan, "in/disk-b001.spf");
    assert!(kept.code == Code::Protected && kept.reason.contains("'in' is not what it was"), "{kept:?}");
    insta::assert_snapshot!(texts(&plan, NoticeCode::MountMissing).join("\n"));
    for (now, named) in
        [("the file system with UUID b (ext4)", 2), ("the file system '/dev/loop0' (ext4)", 1)]
    {
        let was = "the file system '/dev/loop0' (ext4)".to_owned();
        doubt.cause = DoubtCause::Mount { was, now: Some(now.into()) };
        world.inventory.doubts = vec![doubt.clone()];
        let told = texts(&world.plan(), NoticeCode::MountChanged).join("\n");
        assert_eq!(told.matches("the file system ").count(), named, "{told}");
        assert_eq!(told.matches("/dev/loop0").count(), 1, "{told}");
    }
    doubt.cause = DoubtCause::Unproven;
    world.inventory.doubts = vec![doubt];
    insta::assert_snapshot!(texts(&world.plan(), NoticeCode::StateLost).join("\n"));
    world.options.sync = false;
    assert!(texts(&world.plan(), NoticeCode::StateLost).is_empty(), "only a mirror deletes");
}

#[test]
fn sizeable_files_without_any_image_are_a_fault() {
    let mut world = World::default();
    let nothing = |world: &World| !texts(&world.plan(), NoticeCode::NothingRecognised).is_empty();
    world.put("a.vhdx", (1 << 20) - 1, 1, None);
    assert!(!nothing(&world), "below 1 MiB");
    world.put("b.dat", 1 << 20, 1, None);
    assert!(nothing(&world));
    world.options.include_other = true;
    assert!(!nothing(&world), "taken");
    world.options.include_other = false;
    world.file("disk-b001.spf", 1, 1);
    assert!(!nothing(&world));
    world.options.filter.exclude = vec!["*.spf".into()];
    assert!(!nothing(&world), "recognised, and filtered");
    let plan = world.plan();
    assert!(plan.notices.iter().all(|n| n.level != NoticeLevel::Failing), "{:?}", plan.notices);
    assert_eq!(texts(&plan, NoticeCode::ImageLikeUnrecognised).len(), 1);
}

#[test]
fn folders_are_told_by_the_outermost_without_an_image() {
    let mut world = World::default();
    world.file("a/disk-b001.spf", 1, 1);
    for name in ["a/notes", "a/b/c/x", "a/b/d/y", "e/z", "top"] {
        world.put(name, 10, 1, None);
    }
    let plan = world.plan();
    let folders = texts(&plan, NoticeCode::ImageLikeUnrecognised);
    assert!(
        folders.len() == 1 && folders[0].contains("2 folders") && folders[0].contains("'a/b' for one"),
        "{folders:?}"
    );
    assert!(folders[0].contains("3 files (30 B)"), "{folders:?}");
    assert!(texts(&plan, NoticeCode::Unrecognised)[0].contains("2 files (20 B)"));
}

#[test]
fn an_ignored_path_on_the_target_is_out_of_everything() {
    let mut world = World::with_aip(2);
    world.run();
    world.options.sync = true;
    world.options.allow_deletes = true;
    world.remove(&super::sim::aip(1));
    world.remove(&super::sim::aip(2));
    world.inventory.absent_since.remove(&path(&super::sim::aip(2)));
    world.inventory.ignore = vec!["*_i00002.aii".into()];
    let plan = world.plan();
    assert!(super::sim::work(&plan).is_empty(), "2 stays, and needs 1: {:?}", plan.steps);
    assert!(plan.steps.iter().all(|s| s.image != path(&super::sim::aip(2))));
}

#[test]
fn a_set_between_old_and_new_is_told_as_long_as_it_is() {
    let mut world = World::with_aip(2);
    world.run();
    let mut view = world.view();
    assert!(texts(&plan_of(&world, &view), NoticeCode::InTransition).is_empty());
    view.in_transition.insert("a set".to_owned());
    let planned = plan_of(&world, &view);
    insta::assert_snapshot!(texts(&planned, NoticeCode::InTransition).join("\n"), @"1 set is between old and new on the target, a set for one: nothing of it is restorable there until all that differs is replaced; a run goes on with that");
}

/// After a loss of the key and of the memory, in one folder of which something is left at the source and in one of which
/// nothing is.
#[test]
fn what_it_takes_to_delete_what_only_a_manifest_knows_is_told_at_once() {
    let mut world = World::default();
    for name in ["here/a-b001.spf", "here/a-b001-i001.spi", "gone/b-b001.spf", "gone/b-b001-i001.spi"] {
        world.file(name, 100, 1);
    }
    world.run();
    world.options.sync = true;
    for name in ["here/a-b001-i001.spi", "gone/b-b001.spf", "gone/b-b001-i001.spi"] {
        world.inventory.files.retain(|f| f.path != path(name));
    }
    let told = |world: &World, vouched: bool| {
        let mut view = world.view();
        if vouched {
            view.vouched = view.files.keys().cloned().collect();
        }
        let planned = plan_of(world, &view);
        texts(&planned, NoticeCode::StateLost).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    insta::assert_snapshot!(
        told(&world, true).join("\n"),
        @"2 files that only an unsigned manifest of the target knows are not in 'gone' of the source, 'gone/b-b001-i001.spi' for one, and nothing in that folder proves that it is the one they were in: kept on the target; if deleted on purpose: first 'offsite target accept', then 'offsite source accept gone'"
    );
    assert!(told(&world, false).is_empty(), "known by a signed one");
    world.options.sync = false;
    assert!(told(&world, true).is_empty(), "only a mirror deletes");
}
