//! Which records are forgotten: of what is neither on the target nor at the source any more, since [`KEEP_NS`].
//!
//! Gone from the target is what a whole listing does not show, gone from the source what its memory says is absent from a
//! place that could be looked into; where either is not known, the time begins anew. A record that shows something about
//! what is still there stays however old it is: the parent of a visible image, and the images of a set that a
//! consolidation there rests on, or that its visible images lack. Pure.

use std::collections::{BTreeMap, HashSet};

use offsite_plugin_api::TargetPath;

use crate::chain::Evidence;
use crate::source::Inventory;
use crate::target::{Recorded, TargetView};

/// 90 days.
pub const KEEP_NS: i64 = 90 * 24 * 3600 * 1_000_000_000;

/// What is recorded and gone from both sides, with since when. `before`: what the last run found. `view`: as listed.
pub fn gone(
    view: &TargetView,
    inventory: &Inventory,
    before: &BTreeMap<TargetPath, i64>,
) -> BTreeMap<TargetPath, i64> {
    if view.gone.is_empty() {
        return BTreeMap::new();
    }
    let unfinished = inventory.unsettled.iter().map(|u| &u.path);
    let left: HashSet<&TargetPath> =
        unfinished.chain(inventory.left_alone.iter().map(|alone| &alone.path)).collect();
    let there = |path: &TargetPath| inventory.file(path).is_some() || left.contains(path);
    let absent = |path: &TargetPath| inventory.absent_since.contains_key(path);
    view.gone
        .iter()
        .filter(|(path, r)| !there(path) && !there(&r.image) && (absent(path) || absent(&r.image)))
        .map(|(path, _)| {
            // A clock that was set back must not keep a record until it catches up.
            let since =
                before.get(path).map_or(inventory.scanned_ns, |since| *since.min(&inventory.scanned_ns));
            (path.clone(), since)
        })
        .collect()
}

/// Those that have been gone for long enough.
pub fn due(gone: &BTreeMap<TargetPath, i64>, now_ns: i64) -> Vec<TargetPath> {
    let long = |since: &i64| now_ns.saturating_sub(*since) > KEEP_NS;
    gone.iter().filter(|(_, since)| long(since)).map(|(path, _)| path.clone()).collect()
}

/// Without those that something visible rests on. `view`: the target as it is now.
pub fn forgettable(due: Vec<TargetPath>, view: &TargetView) -> Vec<TargetPath> {
    let records = || view.files.values().filter_map(|f| f.recorded.as_deref());
    let parents: HashSet<&TargetPath> =
        records().filter_map(|r| r.parent.as_ref()).map(|parent| &parent.path).collect();
    let mut resting: HashSet<&str> = view.in_transition.iter().map(String::as_str).collect();
    for image in view.chains().sets.iter().flat_map(|s| &s.images) {
        let by_itself =
            matches!(image.evidence, None | Some(Evidence::Header | Evidence::Name | Evidence::Manifest));
        // What was merged on the target grew from what the records of the others say.
        let changed = |f: &crate::chain::ImageFile| {
            let there = view.files.get(&f.path);
            there.is_some_and(|f| f.recorded.as_ref().is_some_and(|r| r.touched(&f.entry)))
        };
        if !by_itself || image.unproven || !image.restorable || image.files.iter().any(changed) {
            resting
                .extend(image.files.iter().filter_map(|f| Some(view.files.recorded(&f.path)?.set.as_str())));
        }
    }
    let needed = |path: &TargetPath, record: &Recorded| {
        parents.contains(path) || resting.contains(record.set.as_str())
    };
    due.into_iter().filter(|path| view.gone.get(path).is_some_and(|record| !needed(path, record))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::sim::{World, aip, path};
    use crate::target::ParentRecord;

    const DAY: i64 = 24 * 3_600_000_000_000;

    /// What a run on that day would forget, and what it remembers as gone.
    fn run(world: &mut World, known: &mut BTreeMap<TargetPath, i64>, day: i64) -> Vec<TargetPath> {
        world.inventory.scanned_ns = day * DAY;
        *known = gone(&world.view(), &world.inventory, known);
        forgettable(due(known, world.inventory.scanned_ns), &world.view())
    }

    fn mirrored(last: u64) -> (World, BTreeMap<TargetPath, i64>) {
        let mut world = World::with_aip(last);
        world.run();
        (world, BTreeMap::new())
    }

    fn lose(world: &mut World, numbers: impl IntoIterator<Item = u64>) {
        for n in numbers {
            world.remove(&aip(n));
            world.erase(&aip(n));
        }
    }

    #[test]
    fn a_set_that_is_gone_from_both_sides_is_forgotten_after_ninety_days_and_not_before() {
        let (mut world, mut known) = mirrored(2);
        lose(&mut world, [0, 1]);
        world.remove(&aip(2));
        assert_eq!(run(&mut world, &mut known, 100), []);
        assert_eq!(known.len(), 2, "the last is still on the target");
        world.erase(&aip(2));
        assert_eq!(run(&mut world, &mut known, 150), []);
        assert_eq!(run(&mut world, &mut known, 190), []);
        assert_eq!(run(&mut world, &mut known, 191), [path(&aip(0)), path(&aip(1))]);
        assert_eq!(run(&mut world, &mut known, 241).len(), 3);
    }

    #[test]
    fn what_nobody_could_look_for_begins_anew() {
        let (mut world, mut known) = mirrored(0);
        lose(&mut world, [0]);
        run(&mut world, &mut known, 100);
        // The place cannot be looked into: the memory says nothing of absence there.
        world.inventory.absent_since.clear();
        run(&mut world, &mut known, 180);
        world.inventory.absent_since.insert(path(&aip(0)), 0);
        assert_eq!(run(&mut world, &mut known, 200), []);
        // It is at the source, still being written.
        world.unsettle(&aip(0));
        assert_eq!(run(&mut world, &mut known, 400), []);
        world.inventory.unsettled.clear();
        assert_eq!(run(&mut world, &mut known, 401), []);
        assert_eq!(run(&mut world, &mut known, 300), [], "the clock was set back");
        assert_eq!(run(&mut world, &mut known, 391), [path(&aip(0))]);
    }

    #[test]
    fn what_something_visible_rests_on_stays() {
        // A consolidation that only the catalog supports, accepted or not.
        for accepted in [false, true] {
            let (mut world, mut known) = mirrored(3);
            lose(&mut world, [1, 2]);
            world.write(&aip(3), "merged", 900);
            if accepted {
                world.accepted.push(path(&aip(3)));
            }
            run(&mut world, &mut known, 100);
            assert_eq!(run(&mut world, &mut known, 2000), []);
            assert_eq!(known.len(), 2);
        }
        // Visible images lack it.
        let (mut world, mut known) = mirrored(3);
        lose(&mut world, [0]);
        run(&mut world, &mut known, 100);
        assert_eq!(run(&mut world, &mut known, 2000), []);
        // A visible image was published upon it.
        let (mut world, mut known) = mirrored(3);
        lose(&mut world, [3]);
        let parent = ParentRecord { path: path(&aip(3)), blake3: [0; 32] };
        world.records.get_mut(&path(&aip(2))).unwrap().parent = Some(Box::new(parent));
        run(&mut world, &mut known, 100);
        assert_eq!(run(&mut world, &mut known, 2000), []);
        world.records.get_mut(&path(&aip(2))).unwrap().parent = None;
        assert_eq!(run(&mut world, &mut known, 2001), [path(&aip(3))]);
    }
}
