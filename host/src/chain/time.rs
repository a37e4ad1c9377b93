//! Parents by time: modification time where the name gives no order, or the date in the name. Every base begins a
//! generation; nothing can be seen to be missing between two dates.

use super::Parent;
use super::draft::Draft;
use crate::format::{ImageKind, Link};

/// Older first; a base before what has the same time.
fn order(draft: &Draft<'_>) -> (Option<u64>, Option<i64>, bool) {
    let increment = draft.kind != ImageKind::Base;
    match draft.link {
        Link::Moment { at, .. } => (Some(*at), None, increment),
        _ => (None, draft.anchor.mtime_ns, increment),
    }
}

fn reverse(draft: &Draft<'_>) -> bool {
    matches!(draft.link, Link::Moment { reverse: true, .. }) && draft.kind != ImageKind::Base
}

/// Splits the drafts into generations, each ordered, ancestors first, and linked. Those without a base come last.
pub(super) fn link(mut drafts: Vec<Draft<'_>>) -> Vec<Vec<Draft<'_>>> {
    drafts.sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| a.anchor.path.cmp(b.anchor.path)));
    let count = drafts.len();
    let mut parents: Vec<Option<usize>> = vec![None; count];
    let (mut base, mut before) = (None, None);
    for at in 0..count {
        match drafts[at].kind {
            _ if reverse(&drafts[at]) => continue,
            ImageKind::Base => (base, before) = (Some(at), Some(at)),
            ImageKind::Differential => parents[at] = base,
            ImageKind::Incremental => parents[at] = before.replace(at),
        }
    }
    let mut after = None;
    for at in (0..count).rev() {
        if reverse(&drafts[at]) {
            parents[at] = after.replace(at);
        } else if drafts[at].kind == ImageKind::Base {
            after = Some(at);
        }
    }
    generations(drafts, &parents)
}

fn generations<'a>(drafts: Vec<Draft<'a>>, parents: &[Option<usize>]) -> Vec<Vec<Draft<'a>>> {
    let count = drafts.len();
    // The generation of each image is its root; a parent is before its child, or after it where increments are reverse.
    let mut roots: Vec<usize> = (0..count).collect();
    let mut depths = vec![0usize; count];
    let forward = (0..count).filter(|&at| parents[at].is_some_and(|p| p < at));
    let backward = (0..count).rev().filter(|&at| parents[at].is_some_and(|p| p > at));
    for at in forward.chain(backward) {
        if let Some(parent) = parents[at] {
            (roots[at], depths[at]) = (roots[parent], depths[parent] + 1);
        }
    }
    let orphans = count;
    for at in 0..count {
        if drafts[roots[at]].kind != ImageKind::Base {
            roots[at] = orphans;
        }
    }
    let mut sequence: Vec<usize> = (0..count).collect();
    sequence.sort_by_key(|&at| (roots[at], depths[at], at));
    let mut positions = vec![0; count];
    let mut sets: Vec<Vec<Draft<'a>>> = Vec::new();
    let mut slots: Vec<Option<Draft<'a>>> = drafts.into_iter().map(Some).collect();
    let mut last = None;
    for at in sequence {
        if last != Some(roots[at]) {
            sets.push(Vec::new());
            last = Some(roots[at]);
        }
        let Some((set, mut draft)) = sets.last_mut().zip(slots[at].take()) else { continue };
        draft.parent = match parents[at] {
            Some(parent) => Parent::Image(positions[parent]),
            None if draft.kind == ImageKind::Base => Parent::None,
            None if reverse(&draft) => Parent::Missing("the full backup that follows it".to_owned()),
            None => Parent::Missing("the base".to_owned()),
        };
        let parent = if let Parent::Image(parent) = draft.parent { set.get(parent) } else { None };
        draft.settle(parent);
        positions[at] = set.len();
        set.push(draft);
    }
    sets
}
