//! Which images a merged one did not take in, although they are gone: those that were missing while it was still as before, or
//! not there yet. They were removed, and it builds on them.
//!
//! A closed format's image does not say what it holds; a scan that looked in between does.

use super::decide::{DecidedSet, Fate};
use super::index::{At, Index, source_path};
use crate::chain::{Image, Span};
use crate::format::Link;
use crate::source::same_mtime;

/// What a named consolidation (source image `i`, on the target already or not) builds on, although its name says that it
/// holds that: the highest image that only the target has, and that was missing before there was such a file, or that it was
/// published upon.
pub(crate) fn beneath_span(index: &Index<'_>, decided: &DecidedSet<'_>, i: usize, span: Span) -> Option<At> {
    let own = &decided.images[i];
    let recorded = index.target_file(own.anchor, &decided.place).and_then(|f| f.recorded.as_ref());
    let upon = recorded.filter(|_| own.fate == Fate::Keep).and_then(|r| r.parent.as_ref()).map(|p| &p.path);
    let mut sets: Vec<u32> = decided.there.iter().flatten().map(|at| at.0).collect();
    sets.sort_unstable();
    sets.dedup();
    let branch = |link: Option<&Link>| match link {
        Some(Link::Number { branch, .. }) => Some(branch.clone()),
        _ => None,
    };
    let own_branch = branch(index.file(own.anchor).recognised.as_ref().map(|r| &r.link));
    let images = sets.into_iter().flat_map(|s| {
        let images = index.input.target.chains().sets[s as usize].images.iter().enumerate();
        images.map(move |(g, gone)| ((s, g as u32), gone))
    });
    let beneath = images.filter(|(at, gone)| {
        let link = || index.input.target.files.get(&gone.id).and_then(|f| f.recognised()).map(|r| &r.link);
        decided.there[i] != Some(*at)
            && !decided.source_of.contains_key(at)
            && gone.number.is_some_and(|n| (span.first..span.last).contains(&n))
            && (upon == Some(&gone.id) || missed_before(index, decided, i, gone))
            && branch(link()) == own_branch
    });
    beneath.max_by_key(|(_, gone)| gone.number).map(|(at, _)| at)
}

/// Whether the target's image `gone` was missing at the source while the holder (source image `i`) was still what the target
/// has of it, or was not there.
pub(crate) fn missed_before(index: &Index<'_>, decided: &DecidedSet<'_>, i: usize, gone: &Image) -> bool {
    let inventory = index.input.inventory;
    if inventory.earlier.is_empty() {
        return false;
    }
    let holder = index.file(decided.images[i].anchor);
    let path = source_path(index, gone);
    let Some((earlier, since)) = inventory.earlier.get(&holder.path).zip(inventory.absent_since.get(&path))
    else {
        return false;
    };
    // Of another folder it is not known that both were looked into.
    if path.parent() != holder.path.parent() || *since >= earlier.until_ns {
        return false;
    }
    let there = index.target_file(decided.images[i].anchor, &decided.place);
    match (earlier.form, there.and_then(|f| f.recorded.as_ref())) {
        (None, None) => there.is_none(),
        (Some((size, mtime_ns)), Some(recorded)) => {
            recorded.size == size && same_mtime(recorded.source_mtime_ns, mtime_ns)
        }
        // It changed several times since the target got it: nothing is known of the first.
        _ => false,
    }
}
