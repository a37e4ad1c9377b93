//! What a run finds out only while it goes on: a deletion that comes after what turns out not to be proved does not happen.

use offsite_plugin_api::{Backend, Call, TargetPath};

use super::{Bench, MIB, Material, Summary, execute};
use crate::plan::{Action, FileAction, Merge, Plan, Sign, Step};
use crate::source::Inventory;
use crate::target::{Files, TargetFile, TargetView};

/// The target holds `old`, which is gone at the source, and `base`; `inc` is to be sent upon `base`, and `old` deleted
/// after that. `base`: how its step is.
fn run(bench: &Bench, base: impl Fn(&mut Step)) -> Summary {
    let context = bench.context();
    let files: Vec<_> = ["base", "inc"].iter().map(|n| bench.scanned(n)).collect();
    let size = |name: &str| bench.scanned(name).size;
    let mut first = bench.step("base", Action::Replace, size("base"), vec![]);
    base(&mut first);
    let steps = vec![
        first,
        bench.step("inc", Action::Copy, size("inc"), vec![0]),
        bench.step("old", Action::Delete, size("old"), vec![1]),
    ];
    let call = Call::unwatched();
    let listed = ["base", "old"].map(|name| {
        let path = TargetPath::new(name).unwrap();
        let recorded = bench.catalog.published_at(&path).unwrap().map(Box::new);
        TargetFile { recorded, ..TargetFile::from(bench.wire.stat(&call, &path).unwrap()) }
    });
    let mut view = TargetView::default();
    view.files = Files::listed(listed.into());
    let inventory = Inventory { files, ..Inventory::default() };
    let plan = Plan { steps, ..Plan::default() };
    execute(&context, &Material::new(&plan, &view, &inventory))
}

fn held() -> Bench {
    let bench = Bench::new(&[("old", MIB), ("base", MIB), ("inc", MIB)]);
    assert_eq!(bench.copy(&bench.context(), &["old", "base"]).images, 2);
    bench
}

#[test]
fn nothing_is_deleted_after_what_could_not_be_read_back() {
    for locked in [true, false] {
        let bench = held();
        let base = TargetPath::new("base").unwrap();
        bench.catalog.forget(std::slice::from_ref(&base)).unwrap();
        if locked {
            bench.wire.mem.disk().locked.insert(base);
        }
        let summary = run(&bench, |step| {
            step.action = Action::Skip;
            step.files[0].action = FileAction::Adopt;
        });
        assert_eq!((summary.failed, &summary.fatal), (0, &None), "{:?}", summary.first_error);
        assert!(bench.visible().contains(&"inc".to_owned()), "what is new goes on");
        assert_eq!(summary.deleted, u64::from(!locked));
    }
}

#[test]
fn nothing_is_deleted_after_a_merge_that_is_not_proved() {
    for (sign, deleted) in [(Sign::Missing, 0), (Sign::Head, 0), (Sign::Header, 1)] {
        let bench = held();
        std::fs::write(bench.dir.path().join("base"), vec![7; MIB + 1]).unwrap();
        let summary = run(&bench, |step| step.merge = Some(Merge { images: Vec::new(), sign }));
        assert_eq!((summary.failed, &summary.fatal), (0, &None), "{:?}", summary.first_error);
        assert_eq!((summary.images, summary.deleted), (2, deleted), "{sign:?}");
    }
}
