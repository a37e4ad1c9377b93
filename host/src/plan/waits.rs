//! What cannot be done now, and everything of the set that must wait for it.

use super::decide::{Decided, DecidedSet, Fate};
use super::explain::Reason;
use super::index::Index;
use super::{Action, FileAction, consolidated, names};
use crate::chain::{Image, ImageSet, Parent};
use crate::format::Link;
use crate::source::Cause;
use offsite_plugin_api::TargetPath;

/// Holds back what cannot be done now, and what would be visible without an ancestor that is held back.
pub(super) fn hold<'a>(index: &Index<'a>, set: &'a ImageSet, decided: &mut DecidedSet<'a>) {
    let replaces = decided.images.iter().any(|d| d.sends() && d.action == Action::Replace || d.compares());
    let unsettled = if replaces { unsettled_on_target(index, &set.id, decided) } else { None };
    for (i, image) in set.images.iter().enumerate() {
        let own = &decided.images[i];
        if !own.sends() {
            if own.compares()
                && let Some(reason) = differing_waits(index, set, decided, i, unsettled)
            {
                // What is recorded is only hashed, or was read in vain before: the chain goes on where it is the same.
                let recorded = matches!(own.reason, Reason::AdoptRewritten | Reason::AdoptUnread);
                let own = &mut decided.images[i];
                match recorded {
                    true => own.waits = Some(reason),
                    false => own_hold(own, reason),
                }
            }
            continue;
        }
        if let Some(why) = index.stuck(None, Some(&set.id)) {
            own_hold(&mut decided.images[i], Reason::Stuck(why));
        } else if let Some(reason) = cannot(index, image, own, unsettled) {
            own_hold(&mut decided.images[i], reason);
        } else if let Some(p) = held_below(index, set, decided, i) {
            own_hold(&mut decided.images[i], Reason::Waiting(&set.images[p].id));
        }
    }
    // An ancestor is not replaced beneath a descendant that would have to be replaced with it and cannot.
    for i in (0..set.images.len()).rev() {
        let own = &decided.images[i];
        if own.fate != Fate::Held || own.action != Action::Replace {
            continue;
        }
        let mut below = &set.images[i].parent;
        while let Parent::Image(p) = *below {
            let ancestor = &mut decided.images[p];
            if ancestor.sends() && ancestor.action == Action::Replace {
                own_hold(ancestor, Reason::Waiting(&set.images[i].id));
            }
            below = &set.images[p].parent;
        }
    }
    leave_held(index, set, decided);
    let mut lacks: Vec<Option<usize>> = vec![None; set.images.len()];
    for (i, image) in set.images.iter().enumerate() {
        let parent_lacks = match image.parent {
            Parent::Image(p) => lacks[p],
            _ => None,
        };
        let below = if decided.images[i].sends() {
            held_below(index, set, decided, i).or(parent_lacks)
        } else {
            None
        };
        if let Some(p) = below {
            own_hold(&mut decided.images[i], Reason::Waiting(&set.images[p].id));
        }
        let own = &decided.images[i];
        lacks[i] = match own.fate {
            Fate::Held if !own.visible() => Some(i),
            Fate::Covered | Fate::Consolidated => None,
            // It lies there, and what it builds on does not, and does not come.
            _ => parent_lacks,
        };
    }
}

/// What a replacement that is held back leaves on the target may hold other images, as long as these are not there: they
/// wait with it.
pub(super) fn leave_held<'a>(index: &Index<'a>, set: &'a ImageSet, decided: &mut DecidedSet<'a>) {
    for i in 0..set.images.len() {
        let own = &decided.images[i];
        let there = decided.there.get(i).copied().flatten();
        if own.fate != Fate::Held || !there.is_some_and(|at| consolidated::by_absence(index.at(at))) {
            continue;
        }
        let covered = consolidated::covered(index, set, &decided.place, &decided.there, i);
        for p in covered.into_iter().flatten() {
            if decided.images[p].sends() {
                own_hold(&mut decided.images[p], Reason::Waiting(&set.images[i].id));
            }
        }
    }
}

/// An image that is held back and that image `i` builds on. Where the one before it is missing (a product goes on from what
/// is left), nobody says which of the older ones that is: any of them may be it.
pub(super) fn held_below(
    index: &Index<'_>,
    set: &ImageSet,
    decided: &DecidedSet<'_>,
    i: usize,
) -> Option<usize> {
    let (image, own) = (&set.images[i], &decided.images[i]);
    let held = |p: &usize| decided.images[*p].fate == Fate::Held;
    match image.parent {
        Parent::Image(p) => Some(p).filter(held),
        Parent::Missing(_) if own.onto.is_some() => {
            set.images.iter().position(|below| own.onto.as_ref() == Some(&below.id)).filter(held)
        }
        Parent::Missing(_) => {
            let link = |at: usize| index.file(decided.images[at].anchor).recognised.as_ref().map(|r| &r.link);
            let may_be = |p: &usize| match (link(i), link(*p)) {
                // The base itself, or what lies on the same branch.
                (Some(Link::Number { .. }), Some(Link::None)) => true,
                (
                    Some(Link::Number { branch: own, number, .. }),
                    Some(Link::Number { branch, number: below, .. }),
                ) => below < number && own.starts_with(branch),
                _ => false, // a header names the one
            };
            (0..set.images.len()).rev().filter(held).find(may_be)
        }
        _ => None,
    }
}

/// Why an image that is only compared is not replaced now, should it differ: what it builds on could not be there with it.
pub(super) fn differing_waits<'a>(
    index: &Index<'a>,
    set: &'a ImageSet,
    decided: &DecidedSet<'a>,
    i: usize,
    unsettled: Option<&'a TargetPath>,
) -> Option<Reason<'a>> {
    let image = &set.images[i];
    let stuck = index.stuck(None, Some(&set.id)).map(Reason::Stuck);
    stuck
        .or_else(|| ancestor_waits(index, image, decided.images[i].anchor))
        .or_else(|| unsettled.map(Reason::SetNotSettled))
        .or_else(|| match image.parent {
            Parent::Image(p) if decided.images[p].fate == Fate::Held => {
                Some(Reason::Waiting(&set.images[p].id))
            }
            Parent::Image(p) => decided.images[p].waits.clone(),
            _ => None,
        })
}

/// Keeps `action`, so that a held replacement is still known as one; the step it becomes is a skip.
pub(super) fn own_hold<'a>(own: &mut Decided<'a>, reason: Reason<'a>) {
    own.fate = Fate::Held;
    own.files = Vec::new();
    own.reason = reason;
}

pub(super) fn cannot<'a>(
    index: &Index<'a>,
    image: &'a Image,
    own: &Decided<'a>,
    unsettled: Option<&'a TargetPath>,
) -> Option<Reason<'a>> {
    if let Some(path) = index.unfinished_file(own.anchor) {
        let unreadable = index.unsettled.get(path).is_some_and(|u| u.cause == Cause::Unreadable);
        return Some(if unreadable { Reason::FileUnreadable(path) } else { Reason::FileNotSettled(path) });
    }
    if let Some(reason) = ancestor_waits(index, image, own.anchor) {
        return Some(reason);
    }
    if let (Action::Replace, Some(path)) = (own.action, unsettled) {
        return Some(Reason::SetNotSettled(path));
    }
    files_cannot(index, own)
}

/// An ancestor that is there and cannot be read, or not yet.
pub(super) fn ancestor_waits<'a>(index: &Index<'a>, image: &'a Image, anchor: usize) -> Option<Reason<'a>> {
    let missing = matches!(image.parent, Parent::Missing(_));
    if let Some(path) = index.unfinished_ancestor(anchor, missing) {
        return Some(Reason::Waiting(path));
    }
    (missing && !index.input.inventory.unreadable.is_empty()).then_some(Reason::ParentUnread)
}

/// What forbids an image's files: a lock that has not ended, a name or a size that the target refuses.
pub(crate) fn files_cannot<'a>(index: &Index<'a>, own: &Decided<'a>) -> Option<Reason<'a>> {
    for step in &own.files {
        if let Some(why) = index.stuck(Some(&step.target), None) {
            return Some(Reason::Stuck(why));
        }
        let there = index.input.target.files.get(&step.target);
        let retention = there.and_then(|f| f.entry.retention.as_ref());
        if step.action == FileAction::Replace
            && let Some(retention) = retention
            && i128::from(retention.until) * 1_000_000_000 > i128::from(index.input.now_ns)
        {
            return Some(Reason::Retained { until: retention.until });
        }
        if let Some(why) = names::refused(&step.target, step.bytes, index.input.capabilities) {
            return Some(Reason::Refused(why));
        }
        if !index.collisions.is_empty()
            && let Some(at) = index.position(&step.path, own.anchor)
            && let Some(other) = index.collisions.get(&at)
        {
            let why = format!(
                "the target does not tell '{}' and '{}' apart: only one of them can be there",
                step.path.display(),
                other.display()
            );
            return Some(Reason::Refused(why));
        }
    }
    None
}

/// A file that the target has of this set and that is being written at the source just now.
pub(super) fn unsettled_on_target<'a>(
    index: &Index<'a>,
    set: &str,
    decided: &DecidedSet<'_>,
) -> Option<&'a TargetPath> {
    let on_target = |path: &TargetPath| {
        let path = index.target_path(&decided.place, path);
        let recorded = index.input.target.files.get(&path).and_then(|f| f.recorded.as_ref());
        recorded.is_some_and(|r| r.set == set)
            || index
                .target_image(&path)
                .is_some_and(|at| decided.there.iter().flatten().any(|own| own.0 == at.0))
    };
    let mut paths: Vec<_> = index.unsettled.keys().copied().filter(|p| on_target(p)).collect();
    paths.sort_unstable();
    paths.first().copied()
}
