//! Order, groups and the form that scripts read.

use super::sim::{World, aip, assert_restorable, path, qcow2, step, work};
use crate::plan::{Action, FileAction, json};

#[test]
fn a_child_waits_for_its_parent_and_siblings_do_not_wait_for_each_other() {
    let mut world = World::with_qcow2(1);
    world.put("2a.qcow2", 1, 1, Some(qcow2("2a.qcow2", Some("1.qcow2"))));
    world.put("2b.qcow2", 1, 1, Some(qcow2("2b.qcow2", Some("1.qcow2"))));
    let plan = world.plan();
    let at = |name: &str| plan.steps.iter().position(|s| s.image.display() == name).unwrap();
    assert_eq!(step(&plan, "base.qcow2").after, [] as [usize; 0]);
    assert_eq!(step(&plan, "1.qcow2").after, [at("base.qcow2")]);
    assert_eq!(step(&plan, "2a.qcow2").after, [at("1.qcow2")]);
    assert_eq!(step(&plan, "2b.qcow2").after, [at("1.qcow2")]);
}

#[test]
fn a_rewritten_chain_is_one_group_ancestor_first() {
    let mut world = World::with_aip(3);
    world.run();
    for n in 0..=2 {
        world.file(&aip(n), 500 + n, 50 + n as i64);
    }
    world.file(&aip(4), 9, 60);
    let plan = world.plan();
    let expected = [0, 1, 2].map(|n| format!("replace {}", aip(n)));
    assert_eq!(work(&plan)[..3], expected);
    let group = step(&plan, &aip(0)).group;
    assert!(group.is_some());
    assert!([1, 2].iter().all(|&n| step(&plan, &aip(n)).group == group));
    let new = step(&plan, &aip(4));
    assert_eq!((new.action, new.group), (Action::Copy, None), "what is new shows only when published");
    assert_eq!(new.after.len(), 1, "it waits for the nearest ancestor that changes");
    assert_eq!(plan.steps[new.after[0]].image.display(), aip(2));
}

#[test]
fn one_replaced_file_needs_no_group() {
    let mut world = World::with_aip(1);
    world.run();
    world.file(&aip(1), 500, 50);
    assert_eq!(step(&world.plan(), &aip(1)).group, None);
}

#[test]
fn a_replaced_image_and_its_side_car_are_one_group() {
    let mut world = World::default();
    world.file("v-b001.spf", 10, 1);
    world.file("v-b001.md5", 3, 1);
    world.run();
    world.file("v-b001.spf", 11, 2);
    world.file("v-b001.md5", 3, 2);
    let plan = world.plan();
    let image = step(&plan, "v-b001.spf");
    assert!(image.group.is_some());
    assert_eq!(
        image.files.iter().map(|f| f.path.display()).collect::<Vec<_>>(),
        ["v-b001.md5", "v-b001.spf"]
    );
    assert!(image.files.iter().all(|f| f.action == FileAction::Replace));
}

#[test]
fn a_new_ancestor_of_a_replaced_image_joins_its_group() {
    // The target lost 1; 0 and 2 were rewritten: 1 must be there before 2, and 0 before 1.
    let mut world = World::with_aip(2);
    world.run();
    world.erase(&aip(1));
    world.file(&aip(0), 500, 50);
    world.file(&aip(2), 502, 52);
    let plan = world.plan();
    let groups: Vec<_> = (0..=2).map(|n| step(&plan, &aip(n)).group).collect();
    assert!(groups[0].is_some() && groups.iter().all(|g| *g == groups[0]), "{groups:?}");
}

#[test]
fn what_goes_before_an_image_whose_parent_nobody_sees_joins_its_group() {
    // The target lost 1; 0 and 3 were rewritten, and the source has 2 no more: 3 comes after all that is older.
    let mut world = World::with_aip(3);
    world.run();
    world.erase(&aip(1));
    world.remove(&aip(2));
    world.file(&aip(0), 500, 50);
    world.file(&aip(3), 503, 53);
    let plan = world.plan();
    let groups: Vec<_> = [0, 1, 3].map(|n| step(&plan, &aip(n)).group).to_vec();
    assert!(groups[0].is_some() && groups.iter().all(|g| *g == groups[0]), "{groups:?} {:?}", work(&plan));
}

#[test]
fn two_sets_have_two_groups() {
    let mut world = World::with_aip(1);
    let other = |n: u64| aip(n).replace("@a_", "@b_");
    world.file(&other(0), 1, 1);
    world.file(&other(1), 1, 1);
    world.run();
    for n in 0..=1 {
        world.file(&aip(n), 500, 50);
        world.file(&other(n), 500, 50);
    }
    let plan = world.plan();
    let groups = [aip(0), aip(1), other(0), other(1)].map(|n| step(&plan, &n).group.unwrap());
    assert_eq!(groups[0], groups[1]);
    assert_eq!(groups[2], groups[3]);
    assert_ne!(groups[0], groups[2]);
}

#[test]
fn a_sets_own_file_follows_everything_of_its_set() {
    let mut world = World::default();
    world.file("job/vmD2024-01-01T010000_0001.vbk", 10, 1);
    world.file("job/vmD2024-01-02T010000_0002.vib", 10, 2);
    world.file("job/vm.vbm", 1, 3);
    let plan = world.run();
    assert_eq!(plan.steps.last().unwrap().image.display(), "job/vm.vbm", "{:?}", work(&plan));
    assert_eq!(plan.steps.last().unwrap().after.len(), 1);
    // It changes every run; alone, too.
    world.file("job/vm.vbm", 2, 4);
    assert_eq!(work(&world.run()), ["replace job/vm.vbm"]);
    world.file("job/vmD2024-01-03T010000_0003.vib", 10, 5);
    world.file("job/vm.vbm", 3, 6);
    let plan = world.plan();
    assert_eq!(work(&plan), ["copy job/vmd2024-01-03t010000_0003.vib", "replace job/vm.vbm"]);
    let image = plan.steps.iter().position(|s| s.action == Action::Copy).unwrap();
    assert_eq!(step(&plan, "job/vm.vbm").after, [image]);
}

#[test]
fn the_json_form_is_what_scripts_were_promised() {
    let mut world = World::with_aip(1);
    world.run();
    world.file(&aip(2), 7, 7);
    world.file(&aip(1), 8, 8);
    let plan = world.plan();
    let target = json::Target::new("nas", "folder:/mnt/nas", &plan);
    let document = json::Document::new(vec![json::Job { job: "nightly", targets: vec![target] }]);
    insta::assert_snapshot!(serde_json::to_string_pretty(&document).unwrap());
}

#[test]
fn a_set_between_old_and_new_is_shown_so_by_whatever_name_its_images_are_recorded() {
    let name = |n: u64| {
        format!("vm/0000000{n}-0000-0000-0000-000000000000_0.{}", if n == 0 { "aiv" } else { "aii" })
    };
    let mut world = World::default();
    for n in 0..=2 {
        world.file(&name(n), 100 + n, n as i64 * 1_000);
    }
    world.run();
    // Without its base the source's set is called otherwise.
    world.remove(&name(0));
    for n in [1, 2] {
        world.file(&name(n), 200 + n, n as i64 * 1_000 + 1);
    }
    let plan = world.plan();
    let first = step(&plan, &name(1));
    assert!(first.group.is_some());
    assert_ne!(*first.set, *world.records[&path(&name(2))].set);
    world.execute(first);
    world.in_transition.insert(first.set.to_string());
    for n in 0..=2 {
        assert_restorable(&world, &name(n), false);
    }
}

#[test]
fn what_stays_upon_what_stays_is_recorded_so() {
    let mut world = World::with_aip(2);
    world.run();
    let linked = |world: &World| -> Vec<_> { world.plan().links };
    let pairs = [1, 2].map(|n| (path(&aip(n)), path(&aip(n - 1))));
    assert_eq!(linked(&world), pairs);
    // What is sent says so itself, and what stays upon it was published upon another one.
    world.file(&aip(1), 500, 50);
    assert_eq!(linked(&world), []);
}

#[test]
fn what_may_differ_of_a_set_is_one_group() {
    let mut world = World::with_aip(2);
    world.run();
    world.lose_records();
    let plan = world.plan();
    assert!(step(&plan, &aip(0)).group.is_some(), "{:?}", step(&plan, &aip(0)));
    assert!((1..=2).all(|n| step(&plan, &aip(n)).group == step(&plan, &aip(0)).group));
    // A new ancestor, though an image that stays lies between.
    let mut world = World::with_aip(2);
    world.run();
    world.erase(&aip(0));
    world.file(&aip(2), 500, 50);
    let plan = world.plan();
    assert_eq!(work(&plan), [format!("copy {}", aip(0)), format!("replace {}", aip(2))]);
    assert!(step(&plan, &aip(0)).group.is_some());
    assert_eq!(step(&plan, &aip(0)).group, step(&plan, &aip(2)).group);
}
