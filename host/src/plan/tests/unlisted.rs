//! What a target's listing leaves out, and names that could not be settled: nothing is concluded from either.

use super::sim::{World, aip, path, step, work};
use crate::plan::{Action, Code, Input, NoticeCode, Plan, plan};
use crate::target::{Stuck, TargetView, Unknown};

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

/// A mirrored chain of three increments; a fourth is new, and so is another set.
fn world() -> World {
    let mut world = World::with_aip(3);
    world.options.sync = true;
    world.options.max_delete = 1.0;
    world.run();
    world.file(&aip(4), 104, 9);
    world.file("srv@b_20240101_d01_00001.aiv", 5, 9);
    world
}

/// The listing leaves that file out.
fn without(world: &World, name: &str) -> TargetView {
    let mut view = world.view();
    let files: Vec<_> = view.files.values().filter(|f| f.entry.path != path(name)).cloned().collect();
    let recorded = view.files[&path(name)].recorded.clone().expect("it is recorded");
    view.files = crate::target::Files::listed(files);
    view.unknown.insert(path(name), Unknown { recorded, why: "the listing of '/' is not whole".into() });
    view
}

#[test]
fn what_may_be_there_is_neither_sent_again_nor_built_upon() {
    let world = world();
    let view = without(&world, &aip(3));
    let plan = planned(&world, &view);
    assert_eq!(
        work(&plan),
        ["copy srv@b_20240101_d01_00001.aiv"],
        "what builds on it waits, the others go on"
    );
    assert_eq!(step(&plan, &aip(3)).code, Code::Unknown);
    assert!(step(&plan, &aip(3)).reason.contains("is not whole"), "{}", step(&plan, &aip(3)).reason);
    assert_eq!(step(&plan, &aip(4)).code, Code::Waiting);
    let told: Vec<_> = plan.notices.iter().map(|n| (n.code.as_str(), n.failing())).collect();
    assert_eq!(told, [("unknown", true)], "{:?}", plan.notices);
    // Listed again, all is as it was.
    assert_eq!(work(&planned(&world, &world.view())).len(), 2);
}

#[test]
fn nothing_is_deleted_where_a_listing_is_not_whole_nor_of_a_set_of_which_it_left_something_out() {
    let mut gone = world();
    for number in 1..=4 {
        gone.remove(&aip(number));
    }
    let deletes = |plan: &Plan| plan.steps.iter().filter(|s| s.action == Action::Delete).count();
    assert_eq!(deletes(&planned(&gone, &gone.view())), 3);
    let mut view = gone.view();
    view.incomplete.insert(path(""), "one line is of no known form".into());
    let plan = planned(&gone, &view);
    assert_eq!(deletes(&plan), 0);
    assert_eq!(step(&plan, &aip(3)).code, Code::Unknown);
    assert!(
        plan.notices
            .iter()
            .any(|n| n.code == NoticeCode::IncompleteListing && n.text.contains("no known form"))
    );
    let plan = planned(&gone, &without(&gone, &aip(3)));
    assert_eq!(deletes(&plan), 0, "an image that may be there may need the others");
    assert_eq!(step(&plan, &aip(2)).code, Code::Unknown);
}

#[test]
fn an_act_that_could_not_be_settled_holds_its_image_and_what_builds_on_it() {
    let world = world();
    let mut view = world.view();
    let why = "publishing it was interrupted, and cannot be settled: a directory has the name";
    view.stuck.push(Stuck { paths: vec![path(&aip(4))], set: None, why: why.into() });
    let plan = planned(&world, &view);
    assert_eq!(work(&plan), ["copy srv@b_20240101_d01_00001.aiv"]);
    assert_eq!(step(&plan, &aip(4)).code, Code::Waiting);
    assert!(step(&plan, &aip(4)).reason.contains("a directory has the name"));
    assert!(
        plan.notices.iter().any(|n| n.code == NoticeCode::Unsettled && n.failing()),
        "{:?}",
        plan.notices
    );
    // A deletion that was interrupted: nothing of the set changes.
    view.stuck[0] = Stuck {
        paths: vec![path("else")],
        set: Some(view.files[&path(&aip(0))].recorded.as_ref().unwrap().set.clone()),
        why: why.into(),
    };
    assert_eq!(work(&planned(&world, &view)), ["copy srv@b_20240101_d01_00001.aiv"]);
}

#[test]
fn other_files_stay_where_a_listing_is_not_whole() {
    let mut world = World::with_aip(1);
    world.options.sync = true;
    world.options.max_delete = 1.0;
    world.options.include_other = true;
    ["x/a.txt", "b.txt"].iter().for_each(|name| world.file(name, 1, 1));
    world.run();
    world.remove("x/a.txt");
    assert_eq!(work(&planned(&world, &world.view())), ["delete x/a.txt"]);
    let mut view = world.view();
    view.incomplete.insert(path("x"), "one line is of no known form".into());
    assert_eq!(work(&planned(&world, &view)), [] as [String; 0]);
}

#[test]
fn nothing_is_deleted_of_a_set_with_an_act_that_could_not_be_settled() {
    let mut gone = world();
    (1..=4).for_each(|number| gone.remove(&aip(number)));
    let mut view = gone.view();
    let set = gone.records[&path(&aip(0))].set.clone();
    view.stuck.push(Stuck { paths: vec![path(&aip(0))], set: Some(set), why: "it is a directory".into() });
    let plan = planned(&gone, &view);
    assert_eq!(plan.totals.delete, 0, "{:?}", work(&plan));
}
