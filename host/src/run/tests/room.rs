//! A target without room: what fits goes on, and deletions make room for the rest.

use offsite_plugin_api::{Backend, Call, TargetPath};

use super::{Bench, MIB, Material, Summary, execute};
use crate::plan::{Action, Code, Plan, Step};
use crate::source::{Inventory, SourceFile};
use crate::target::{Files, TargetFile, TargetView};

/// The target holds `old` (5 MiB) and has room for 10 MiB in all. To be copied: `large` (8 MiB), `onto` upon it, `small`.
fn full(tells: bool) -> Bench {
    let files = [("old", 5 * MIB), ("large", 8 * MIB), ("lonto", MIB / 2), ("small", MIB)];
    let mut bench = Bench::new(&files);
    assert_eq!(bench.copy(&bench.context(), &["old"]).images, 1);
    (bench.wire.room, bench.wire.tells) = (Some(10 * MIB as u64), tells);
    bench
}

fn run(bench: &Bench, deletion: impl Fn(&mut Step)) -> Summary {
    let context = bench.context();
    let names = ["large", "lonto", "small"];
    let mut scanned: Vec<SourceFile> = names.iter().map(|n| bench.scanned(n)).collect();
    scanned.sort_by(|a, b| a.path.cmp(&b.path));
    let after = [vec![], vec![0], vec![]];
    let size = |name: &str| bench.scanned(name).size;
    let copies = names.iter().zip(after);
    let mut steps: Vec<Step> =
        copies.map(|(name, after)| bench.step(name, Action::Copy, size(name), after)).collect();
    let mut delete = bench.step("old", Action::Delete, 5 * MIB as u64, vec![]);
    deletion(&mut delete);
    if delete.code == Code::DeleteFirst {
        steps.iter_mut().flat_map(|s| &mut s.after).for_each(|a| *a += 1);
        steps.insert(0, delete);
    } else {
        steps.push(delete);
    }
    let call = Call::unwatched();
    let entry = bench.wire.stat(&call, &TargetPath::new("old").unwrap()).unwrap();
    let mut view = TargetView::default();
    view.files = Files::listed(vec![TargetFile::from(entry)]);
    let inventory = Inventory { files: scanned, ..Inventory::default() };
    let plan = Plan { steps, ..Plan::default() };
    let mut material = Material::new(&plan, &view, &inventory);
    material.tight = bench.wire.tells;
    execute(&context, &material)
}

#[test]
fn what_fits_goes_on_and_the_rest_is_tried_again_after_the_deletions() {
    for tells in [false, true] {
        let bench = full(tells);
        let summary = run(&bench, |_| {});
        assert_eq!(
            (summary.images, summary.deleted, summary.no_room, summary.failed),
            (3, 1, 0, 0),
            "{summary:?}"
        );
        assert_eq!(summary.fatal, None);
        assert_eq!(bench.visible(), ["large", "lonto", "small"]);
        ["large", "lonto", "small"].iter().for_each(|name| bench.assert_same(name));
        let in_vain = bench.wire.sent() - (5 + 8 + 1) * MIB - MIB / 2;
        assert_eq!(in_vain == 0, tells, "a target that tells is not sent what does not fit");
    }
}

#[test]
fn what_does_not_fit_is_told_and_nothing_goes_whose_place_it_should_take() {
    for tells in [false, true] {
        let bench = full(tells);
        let summary = run(&bench, |deletion| deletion.after = vec![0]);
        assert_eq!((summary.images, summary.deleted, summary.no_room), (1, 0, 1), "{summary:?}");
        assert_eq!(bench.visible(), ["old", "small"]);
        let staged: Vec<_> = bench.catalog.staged().unwrap().into_iter().map(|s| s.path).collect();
        assert!(!staged.contains(&TargetPath::new("large").unwrap()), "its room is left to others");
        assert!(summary.first_error.is_some());
    }
}

#[test]
fn deletions_that_go_first_make_room() {
    let bench = full(true);
    let summary = run(&bench, |deletion| deletion.code = Code::DeleteFirst);
    assert_eq!((summary.images, summary.deleted, summary.no_room), (3, 1, 0), "{summary:?}");
    assert_eq!(bench.wire.sent(), (5 + 8 + 1) * MIB + MIB / 2, "nothing was sent twice");
}

/// Two small files of one image, the first of which finds no room while nobody has taken the second.
#[test]
fn an_image_of_several_small_files_is_tried_again_and_told() {
    for makes_room in [true, false] {
        let size = 64 << 10;
        let mut bench = Bench::new(&[("old", 5 * MIB), ("image", size), ("image.md5", size)]);
        assert_eq!(bench.copy(&bench.context(), &["old"]).images, 1);
        bench.wire.room = Some(5 * MIB as u64 + 10);
        let files = vec![bench.scanned("image"), bench.scanned("image.md5")];
        let mut copy = bench.step("image", Action::Copy, 2 * size as u64, vec![]);
        copy.files[0].bytes = size as u64;
        let sidecar = bench.step("image.md5", Action::Copy, size as u64, vec![]);
        copy.files.insert(0, sidecar.files[0].clone());
        let mut steps = vec![copy];
        if makes_room {
            steps.push(bench.step("old", Action::Delete, 5 * MIB as u64, vec![]));
        }
        let mut view = TargetView::default();
        let old = bench.wire.stat(&Call::unwatched(), &TargetPath::new("old").unwrap()).unwrap();
        view.files = Files::listed(vec![TargetFile::from(old)]);
        let inventory = Inventory { files, ..Inventory::default() };
        let plan = Plan { steps, ..Plan::default() };
        let context = super::Context { streams: 1, ..bench.context() };
        let summary = execute(&context, &Material::new(&plan, &view, &inventory));
        let expected = if makes_room { (1, 1, 0) } else { (0, 0, 1) };
        assert_eq!((summary.images, summary.deleted, summary.no_room), expected, "{summary:?}");
    }
}

#[test]
fn a_small_image_that_does_not_fit_is_told_like_a_large_one() {
    for tells in [false, true] {
        let mut bench = Bench::new(&[("a1", 1000)]);
        (bench.wire.room, bench.wire.tells) = (Some(10), tells);
        for streams in [1, 3] {
            let context = super::Context { streams, ..bench.context() };
            let summary = bench.copy(&context, &["a1"]);
            assert_eq!((summary.images, summary.no_room), (0, 1), "{summary:?}");
        }
    }
}
