//! Images that lie on the target upon another parent than they were published upon: file by file the target is the
//! source, and yet a restore would mix two chains.

use super::sim::{World, aip, path, step, work};
use crate::plan::NoticeCode;
use crate::target::ParentRecord;

/// A replicated chain of three increments, of which that one was published upon this.
fn published_upon(image: &str, parent: &str, content: u8) -> World {
    let mut world = World::with_aip(3);
    world.run();
    let upon = ParentRecord { path: path(parent), blake3: [content; 32] };
    world.records.get_mut(&path(image)).expect("it is recorded").parent = Some(Box::new(upon));
    world
}

fn not_restorable(world: &World) -> Vec<u64> {
    let plan = world.plan();
    assert_eq!(work(&plan), [] as [String; 0]);
    (0..=3).filter(|n| step(&plan, &aip(*n)).not_restorable).collect()
}

#[test]
fn another_parent_of_the_same_name_breaks_all_that_builds_on_it() {
    let world = published_upon(&aip(2), &aip(1), 9);
    assert_eq!(not_restorable(&world), [2, 3]);
    let plan = world.plan();
    assert!(step(&plan, &aip(3)).reason.contains(&aip(1)), "{}", step(&plan, &aip(3)).reason);
    assert!(plan.notices.iter().any(|n| n.code == NoticeCode::AncestorAltered), "{:?}", plan.notices);
}

#[test]
fn a_parent_between_that_both_sides_lack_breaks_all_that_builds_on_it() {
    // Its name shows no gap to who does not count.
    assert_eq!(not_restorable(&published_upon(&aip(2), "srv@a_between.aii", 9)), [2, 3]);
}
