//! Filter, policies, sub-folders, and what is not ready or not recognised at the source.

use super::sim::{World, aip, assert_restorable, path, qcow2, step, work};
use crate::format::{Format, ImageKind};
use crate::plan::{Action, Baseline, Code, Filter, NoticeCode, Policy};

#[test]
fn a_filter_leaves_images_out_by_kind_format_and_name() {
    let filter = |change: fn(&mut Filter)| {
        let mut filter = Filter::default();
        change(&mut filter);
        filter
    };
    let base = aip(0);
    let increment = aip(1);
    let cases: [(&str, Filter, Vec<&str>); 8] = [
        ("nothing", Filter::default(), vec![&base, &increment, "d/base.qcow2"]),
        ("kind", filter(|f| f.kinds = vec![ImageKind::Base]), vec![&base, "d/base.qcow2"]),
        ("format", filter(|f| f.formats = vec![Format::Qcow2]), vec!["d/base.qcow2"]),
        (
            "include by name in any folder",
            filter(|f| f.include = vec!["*.qcow2".into()]),
            vec!["d/base.qcow2"],
        ),
        ("include by folder", filter(|f| f.include = vec!["d/**".into()]), vec!["d/base.qcow2"]),
        ("exclude", filter(|f| f.exclude = vec!["*.aii".into()]), vec![&base, "d/base.qcow2"]),
        ("a glob with a folder is anchored", filter(|f| f.include = vec!["x/*.qcow2".into()]), vec![]),
        (
            "exclude wins",
            filter(|f| {
                f.include = vec!["*.qcow2".into()];
                f.exclude = vec!["d/*".into()];
            }),
            vec![],
        ),
    ];
    for (what, filter, expected) in cases {
        let mut world = World::with_aip(1);
        world.put("d/base.qcow2", 9, 9, Some(qcow2("d/base.qcow2", None)));
        world.options.filter = filter;
        let plan = world.plan();
        let mut copied: Vec<_> =
            plan.steps.iter().filter(|s| s.action == Action::Copy).map(|s| s.image.display()).collect();
        let mut expected = expected;
        copied.sort();
        expected.sort();
        assert_eq!(copied, expected, "{what}");
        for skipped in plan.steps.iter().filter(|s| s.action == Action::Skip) {
            assert_eq!(skipped.code, Code::Filtered, "{what}");
        }
    }
}

#[test]
fn side_cars_and_parts_go_with_their_image() {
    let mut world = World::default();
    for name in ["v-b001.spf", "v-b001.md5", "v-b001.sp1"] {
        world.file(name, 10, 1);
    }
    world.options.filter.include = vec!["*.spf".into()];
    assert_eq!(step(&world.plan(), "v-b001.spf").files.len(), 3);
    world.options.filter.include = vec!["*.md5".into()];
    assert_eq!(work(&world.plan()), [] as [String; 0]);
}

#[test]
fn what_is_copied_without_its_ancestors_is_said_to_be_not_restorable() {
    let mut world = World::with_aip(2);
    world.options.filter.kinds = vec![ImageKind::Incremental];
    let plan = world.plan();
    assert_eq!(work(&plan), [1, 2].map(|n| format!("copy {}", aip(n))));
    for n in [1, 2] {
        let step = step(&plan, &aip(n));
        assert!(
            step.not_restorable && step.reason.contains("left out by filter or policy"),
            "{}",
            step.reason
        );
    }
    assert_eq!(step(&plan, &aip(2)).after.len(), 1, "the order is kept among what is copied");
    assert!(plan.notices.iter().any(|n| n.code == NoticeCode::NotRestorable && !n.failing()));
    // With the base there already, all is well.
    let mut world = World::with_aip(0);
    world.run();
    world.file(&aip(1), 5, 5);
    world.options.filter.kinds = vec![ImageKind::Incremental];
    let plan = world.run();
    assert!(!step(&plan, &aip(1)).not_restorable);
    assert_restorable(&world, &aip(1), true);
}

#[test]
fn new_images_only() {
    let mut world = World::with_aip(1);
    world.options.policy = Some(Policy::NewImages);
    // Taking effect now: everything there is the baseline.
    assert!(world.plan().steps.iter().all(|s| s.code == Code::BeforeBaseline));
    world.baseline = Some(Baseline::take(&world.chains(), &world.inventory, 7));
    world.file(&aip(2), 5, 0); // an old time: clocks decide nothing
    let plan = world.plan();
    assert_eq!(work(&plan), [format!("copy {}", aip(2))]);
    assert!(step(&plan, &aip(2)).not_restorable);
}

#[test]
fn an_image_that_was_being_written_when_the_policy_took_effect_is_not_new() {
    let mut world = World::with_aip(1);
    world.options.policy = Some(Policy::NewImages);
    world.unsettle(&aip(1));
    world.baseline = Some(Baseline::take(&world.chains(), &world.inventory, 7));
    world.inventory.unsettled.clear();
    world.file(&aip(1), 101, 2);
    assert_eq!(step(&world.plan(), &aip(1)).code, Code::BeforeBaseline);
}

#[test]
fn new_sets_only() {
    let mut world = World::with_aip(1);
    world.options.policy = Some(Policy::NewSets);
    world.baseline = Some(Baseline::take(&world.chains(), &world.inventory, 7));
    world.file(&aip(2), 5, 5);
    world.file("srv@b_20240101_d01_00001.aiv", 5, 1);
    world.file("srv@b_20240101_d01_00001_i00001.aii", 5, 1);
    let plan = world.plan();
    assert_eq!(
        work(&plan),
        ["copy srv@b_20240101_d01_00001.aiv", "copy srv@b_20240101_d01_00001_i00001.aii"]
    );
    assert!(step(&plan, &aip(2)).reason.contains("image set existed"));
    assert!(plan.steps.iter().all(|s| !s.not_restorable || s.code != Code::New));
}

#[test]
fn a_sub_folder_holds_the_whole_set_and_is_found_again() {
    let mut world = World::with_aip(1);
    world.options.subfolder = Some("{job}/{host}-{date}".into());
    let plan = world.run();
    let target = &step(&plan, &aip(1)).files[0].target;
    assert_eq!(target.display(), format!("nightly/srv-1970-01-01/{}", aip(1)));
    assert!(world.plan().steps.iter().all(|s| s.code == Code::UpToDate));
    // Lost records: still found, by the same name.
    let mut lost = world.clone();
    lost.lose_records();
    assert!(lost.plan().steps.iter().all(|s| s.code == Code::Adopt && s.files.len() == 1));
    // Another template later: the set stays together, where it is.
    world.options.subfolder = Some("elsewhere".into());
    world.file(&aip(2), 9, 9);
    let plan = world.run();
    assert_eq!(step(&plan, &aip(2)).files[0].target.parent(), Some(path("nightly/srv-1970-01-01")));
    world.options.subfolder = None;
    world.file(&aip(3), 9, 9);
    let plan = world.run();
    assert_eq!(step(&plan, &aip(3)).files[0].target.parent(), Some(path("nightly/srv-1970-01-01")));
    assert_eq!(plan.totals.skip, 3);
    let view = world.view();
    assert!(view.chains().sets[0].images.iter().all(|i| i.restorable), "{:?}", view.chains().problems);
}

#[test]
fn qcow2_in_a_sub_folder_is_one_chain_there() {
    let mut world = World::with_qcow2(2);
    world.options.subfolder = Some("{set}".into());
    world.run();
    // No header is read back of what nobody touched.
    world.held.values_mut().for_each(|h| h.header = None);
    let view = world.view();
    assert_eq!(view.chains().sets.len(), 1);
    assert!(view.chains().sets[0].images.iter().all(|i| i.restorable));
    assert!(world.plan().steps.iter().all(|s| s.code == Code::UpToDate));
}

#[test]
fn what_is_still_being_written_waits_and_so_does_what_builds_on_it() {
    let mut world = World::with_aip(3);
    world.unsettle(&aip(1));
    let plan = world.plan();
    assert_eq!(work(&plan), [format!("copy {}", aip(0))]);
    assert_eq!(step(&plan, &aip(1)).code, Code::NotSettled);
    assert_eq!(step(&plan, &aip(2)).code, Code::Waiting, "its parent will come");
    assert_eq!(step(&plan, &aip(3)).code, Code::Waiting);

    let mut world = World::with_qcow2(2);
    world.unsettle("base.qcow2");
    assert_eq!(work(&world.plan()), [] as [String; 0]);
}

#[test]
fn an_image_waits_for_its_last_part() {
    let mut world = World::default();
    for name in ["v-b001.spf", "v-b001.sp1", "v-b001.sp2"] {
        world.file(name, 10, 1);
    }
    world.unsettle("v-b001.sp2");
    let plan = world.plan();
    assert_eq!(work(&plan), [] as [String; 0]);
    assert_eq!(step(&plan, "v-b001.spf").code, Code::NotSettled);
}

#[test]
fn a_base_is_not_replaced_while_what_builds_on_it_is_being_rewritten() {
    let mut world = World::with_aip(2);
    world.run();
    world.file(&aip(0), 500, 50);
    world.unsettle(&aip(1));
    let plan = world.plan();
    assert_eq!(work(&plan), [] as [String; 0]);
    assert!(step(&plan, &aip(0)).reason.contains("builds on it"), "{}", step(&plan, &aip(0)).reason);
}

#[test]
fn a_gap_is_copied_and_reported_unless_it_may_still_be_filled() {
    let mut world = World::with_aip(3);
    world.inventory.files.retain(|f| f.path != path(&aip(1)));
    let plan = world.plan();
    assert_eq!(work(&plan), [0, 2, 3].map(|n| format!("copy {}", aip(n))));
    let two = step(&plan, &aip(2));
    assert!(two.not_restorable && two.reason.contains("increment 1"), "{}", two.reason);
    assert_eq!(two.after.len(), 1, "after the base: it may be consolidated");
    assert!(plan.notices.iter().any(|n| n.code == NoticeCode::Gap && !n.failing()));
    world.inventory.unreadable.push((path("x"), "I/O error".into()));
    let plan = world.plan();
    assert_eq!(step(&plan, &aip(2)).code, Code::Waiting);
    assert_eq!(step(&plan, &aip(3)).code, Code::Waiting);
    assert!(plan.notices.iter().any(|n| n.code == NoticeCode::Unreadable && n.failing()));
}

#[test]
fn files_nobody_recognises_are_left_alone_unless_asked_for() {
    let mut world = World::default();
    world.put("notes.txt", 3, 1, None);
    let plan = world.plan();
    assert_eq!(
        (step(&plan, "notes.txt").action, step(&plan, "notes.txt").code),
        (Action::Skip, Code::NotRecognised)
    );
    world.options.include_other = true;
    assert_eq!(work(&world.run()), ["copy notes.txt"]);
    assert_eq!(step(&world.plan(), "notes.txt").code, Code::UpToDate);
    world.options.filter.kinds = vec![ImageKind::Base];
    assert_eq!(
        step(&world.plan(), "notes.txt").code,
        Code::Filtered,
        "it has no kind that could be asked for"
    );
}

#[test]
fn what_the_baseline_has_is_old_without_its_base_too_and_as_another_file() {
    let mut world = World::with_aip(2);
    world.options.policy = Some(Policy::NewSets);
    world.remove(&aip(0));
    world.baseline = Some(Baseline { images: [path(&aip(1))].into(), taken_ns: 0 });
    assert_eq!(work(&world.plan()), [] as [String; 0]);
    let mut world = World::default();
    world.options.policy = Some(Policy::NewImages);
    world.options.include_other = true;
    ["a.txt", "b.txt"].iter().for_each(|name| world.file(name, 1, 1));
    world.baseline = Some(Baseline { images: [path("a.txt")].into(), taken_ns: 0 });
    assert_eq!(work(&world.plan()), ["copy b.txt"]);
}
