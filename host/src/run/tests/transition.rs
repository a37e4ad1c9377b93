//! A set whose files all differ, on a target that cannot hold it twice.

use std::sync::Arc;

use offsite_plugin_api::{Backend, Call, ErrorKind, TargetPath};

use super::{BackendError, Bench, MIB, Material, Summary, execute};
use crate::plan::{Action, Code, FileAction, Plan, Step};
use crate::source::{Inventory, SourceFile};
use crate::target::{Files, TargetFile, TargetView, open_intents};

const NAMES: [&str; 3] = ["a1", "a2", "a3"];

/// The target holds older images of the same size under the same names, and has room for one more.
fn seeded(tells: bool) -> Bench {
    let mut bench = Bench::new(&NAMES.map(|name| (name, 4 * MIB)));
    assert_eq!(bench.copy(&bench.context(), &NAMES).images, 3);
    for (seed, name) in NAMES.iter().enumerate() {
        std::fs::write(bench.dir.path().join(name), super::content(4 * MIB, 100 + seed)).unwrap();
    }
    (bench.wire.room, bench.wire.tells) = (Some(17 * MIB as u64), tells);
    bench
}

/// As the planner makes it: what differs goes as one group.
fn run(bench: &Bench) -> Summary {
    let context = bench.context();
    let files: Vec<SourceFile> = NAMES.iter().map(|name| bench.scanned(name)).collect();
    let step = |(at, name): (usize, &&str)| {
        let path = TargetPath::new(*name).unwrap();
        let same = bench.wire.mem.content(&path) == Some(std::fs::read(bench.dir.path().join(name)).unwrap());
        let mut step = bench.step(name, Action::Replace, files[at].size, (0..at).rev().take(1).collect());
        step.files[0].action = FileAction::Replace;
        step.group = Some(1);
        step.parent = (at > 0).then(|| TargetPath::new(NAMES[at - 1]).unwrap());
        if same {
            (step.action, step.code, step.group) = (Action::Skip, Code::UpToDate, None);
            step.files.clear();
        }
        step
    };
    let steps: Vec<Step> = NAMES.iter().enumerate().map(step).collect();
    let entry = |name: &str| bench.wire.stat(&Call::unwatched(), &TargetPath::new(name).unwrap()).unwrap();
    let mut view = TargetView::default();
    view.files = Files::listed(NAMES.iter().map(|name| TargetFile::from(entry(name))).collect());
    let plan = Plan { steps, ..Plan::default() };
    let inventory = Inventory { files, ..Inventory::default() };
    let mut material = Material::new(&plan, &view, &inventory);
    material.tight = bench.wire.tells;
    execute(&context, &material)
}

fn in_transition(bench: &Bench) -> Vec<String> {
    open_intents(&bench.catalog).unwrap().1
}

#[test]
fn without_room_for_the_whole_group_images_are_replaced_ancestors_first() {
    for tells in [false, true] {
        let mut bench = seeded(tells);
        bench.wire.published.lock().unwrap().clear();
        let catalog = bench.catalog.clone();
        bench.wire.before_publish = Some(Arc::new(move |_| {
            assert_eq!(open_intents(&catalog).unwrap().1.first().map(String::as_str), Some("a"));
            assert_eq!(catalog.transitions().unwrap(), ["a"], "marked before anything is replaced");
            Ok(())
        }));
        let summary = run(&bench);
        assert_eq!((summary.images, summary.failed, summary.no_room), (3, 0, 0), "{summary:?}");
        NAMES.iter().for_each(|name| bench.assert_same(name));
        assert_eq!(*bench.wire.published.lock().unwrap(), NAMES);
        assert!(in_transition(&bench).is_empty(), "the last one ends it");
    }
}

#[test]
fn what_was_interrupted_stays_in_transition_until_the_last_image_is_there() {
    let mut bench = seeded(true);
    bench.wire.before_publish = Some(Arc::new(|name| match name {
        "a2" => Err(BackendError::new(ErrorKind::Unreachable, "the server went away")),
        _ => Ok(()),
    }));
    let summary = run(&bench);
    assert!(summary.fatal.is_some(), "{summary:?}");
    bench.assert_same("a1");
    assert!(in_transition(&bench).contains(&"a".to_owned()), "old increments lie upon the new base");
    bench.wire.before_publish = None;
    // The next run: the rest goes on, and ends it.
    let summary = run(&bench);
    assert_eq!((summary.images, summary.failed, summary.no_room), (2, 0, 0), "{summary:?}");
    NAMES.iter().for_each(|name| bench.assert_same(name));
    assert!(in_transition(&bench).is_empty());
}

#[test]
fn a_mark_that_a_kill_left_behind_the_last_image_goes_with_the_next_run() {
    let bench = seeded(true);
    assert_eq!(run(&bench).images, 3);
    bench.catalog.begin_transition("a").unwrap();
    bench.catalog.begin_transition("of which nothing is left").unwrap();
    assert_eq!(run(&bench).images, 0);
    assert!(in_transition(&bench).is_empty());
}

#[test]
fn where_not_even_one_fits_nothing_is_marked() {
    let mut bench = seeded(true);
    bench.wire.room = Some(14 * MIB as u64);
    let summary = run(&bench);
    assert_eq!((summary.images, summary.no_room), (0, 1), "{summary:?}");
    assert!(in_transition(&bench).is_empty(), "the old set is whole");
}

/// Its images are gone from both sides. The records stay for a while, and must not keep the mark, which keeps them.
#[test]
fn a_mark_goes_with_the_last_image_of_its_set() {
    let bench = seeded(true);
    let context = bench.context();
    let marked = |remove: &[&str]| {
        for name in remove {
            bench.wire.mem.disk().files.remove(&TargetPath::new(*name).unwrap());
        }
        bench.catalog.begin_transition("a").unwrap();
        let call = context.line.call(None);
        let view = crate::target::survey(&context.site(&call)).unwrap().view;
        let (plan, inventory) = (Plan::default(), Inventory::default());
        execute(&context, &Material::new(&plan, &view, &inventory));
        in_transition(&bench)
    };
    assert_eq!(marked(&["a1", "a2"]), ["a"], "one image lies there still");
    assert!(marked(&["a3"]).is_empty());
    assert_eq!(bench.catalog.published_sets().unwrap(), ["a"], "the records do not go with it");
}
