//! A set's manifest that cannot be written holds the set's deletions, and nothing else.

use offsite_plugin_api::{Backend, Call, TargetPath};

use super::{Bench, Material, Summary, execute};
use crate::plan::{Action, Plan, Step};
use crate::source::{Inventory, SourceFile};
use crate::target::manifest::set_hash;
use crate::target::{Files, TargetFile, TargetView};

/// Copies and deletes these files in one run; their first letter is their set.
fn run(bench: &Bench, copies: &[&str], deletes: &[&str]) -> Summary {
    let context = bench.context();
    let files: Vec<SourceFile> = copies.iter().map(|name| bench.scanned(name)).collect();
    let copy = |(at, name): (usize, &&str)| bench.step(name, Action::Copy, files[at].size, vec![]);
    let mut steps: Vec<Step> = copies.iter().enumerate().map(copy).collect();
    steps.extend(deletes.iter().map(|name| bench.step(name, Action::Delete, 10, vec![])));
    let entry = |name: &&str| bench.wire.stat(&Call::unwatched(), &TargetPath::new(*name).unwrap()).unwrap();
    let mut view = TargetView::default();
    view.files = Files::listed(deletes.iter().map(|name| TargetFile::from(entry(name))).collect());
    let plan = Plan { steps, ..Plan::default() };
    let inventory = Inventory { files, ..Inventory::default() };
    execute(&context, &Material::new(&plan, &view, &inventory))
}

fn bench() -> Bench {
    let names = ["a1", "a2", "a3", "b1", "b2", "b3"];
    let bench = Bench::new(&names.map(|name| (name, 10)));
    assert_eq!(run(&bench, &["a1", "a2", "b1", "b2"], &[]).images, 4);
    bench
}

fn deny(bench: &mut Bench, set: &str) {
    bench.wire.denied = Some(format!("offsite-manifest/{}", set_hash(set)));
}

#[test]
fn a_manifest_that_cannot_be_written_holds_its_sets_deletions_until_it_could_be() {
    let mut bench = bench();
    deny(&mut bench, "a");
    let summary = run(&bench, &["a3", "b3"], &["a2", "b2"]);
    assert_eq!((summary.images, summary.deleted, summary.failed), (2, 1, 0), "{summary:?}");
    assert_eq!(bench.visible(), ["a1", "a2", "a3", "b1", "b3"], "the other set's went, the new images came");
    assert_eq!(summary.waiting, ["a2"], "it is told");

    let summary = run(&bench, &[], &["a2"]);
    assert_eq!((summary.deleted, summary.fatal), (0, None), "a later run waits, too");
    assert_eq!(bench.visible(), ["a1", "a2", "a3", "b1", "b3"]);

    bench.wire.denied = None;
    assert_eq!(run(&bench, &[], &["a2"]).deleted, 1);
    assert_eq!(bench.visible(), ["a1", "a3", "b1", "b3"]);
    assert!(bench.catalog.unwritten_sets().unwrap().is_empty());
}

#[test]
fn a_damaged_manifest_is_written_anew_before_anything_of_its_set_goes() {
    let mut bench = bench();
    // As a survey leaves it that could not read what is there.
    bench.catalog.manifests_behind(&["a".to_owned()]).unwrap();
    bench
        .catalog
        .manifests_seen(&[(set_hash("a"), 1, [0; 32])], &Default::default(), &Default::default())
        .unwrap();
    deny(&mut bench, "a");
    assert_eq!(run(&bench, &[], &["a2", "b2"]).deleted, 1);
    assert_eq!(bench.visible(), ["a1", "a2", "b1"]);
    bench.wire.denied = None;
    assert_eq!(run(&bench, &[], &["a2"]).deleted, 1);
}

#[test]
fn what_goes_after_a_held_deletion_is_held_with_it() {
    let mut bench = bench();
    deny(&mut bench, "a");
    bench.catalog.manifests_behind(&["a".to_owned()]).unwrap();
    bench
        .catalog
        .manifests_seen(&[(set_hash("a"), 1, [0; 32])], &Default::default(), &Default::default())
        .unwrap();
    let summary = run(&bench, &[], &["a2", "a1"]);
    assert_eq!((summary.deleted, summary.waiting.len()), (0, 2), "{summary:?}");
}
