//! What of a set will not be restorable, or only if something unproven is true, and why.

use super::attach;
use super::beside::beneath_span;
use super::compare::Found;
use super::decide::{DecidedSet, Fate};
use super::explain::{Incomplete, Reason};
use super::index::{At, Index};
use super::merged::Onto;
use crate::chain::{Image, ImageSet, Parent};
use crate::format::{ImageKind, Link};
use crate::target::proof;

/// Says of each image whether it builds on what nothing proves. Ancestors come first.
pub(super) fn doubt<'a>(set: &'a ImageSet, decided: &mut DecidedSet<'a>) {
    for (i, image) in set.images.iter().enumerate() {
        let below = match image.parent {
            Parent::Image(p) => decided.images[p].doubt,
            _ => None,
        };
        let own = &mut decided.images[i];
        own.doubt = match own.reason {
            Reason::Consolidated { unproven: true, .. } => Some(&image.id),
            Reason::Covered { by, unproven: true } => Some(by),
            _ => below,
        };
    }
}

/// Whether the target's image lacks something itself; what it only inherits, this run may mend.
pub(super) fn lacks_itself(index: &Index<'_>, at: At) -> bool {
    let image = index.at(at);
    if image.restorable {
        return false;
    }
    let whole_below = match image.parent {
        Parent::Image(p) => index.at((at.0, p as u32)).restorable,
        Parent::None => true,
        Parent::Missing(_) | Parent::Cycle => false,
    };
    whole_below || proof::unproved_itself(index.input.target, image)
}

/// The earliest place in time of an image that only the target has and that is none: whatever time orders after it hangs on
/// it there.
pub(super) fn earliest_damaged(
    index: &Index<'_>,
    decided: &DecidedSet<'_>,
) -> Option<(Option<u64>, Option<i64>)> {
    let mut sets: Vec<u32> = decided.there.iter().flatten().map(|at| at.0).collect();
    sets.sort_unstable();
    sets.dedup();
    let images = sets.into_iter().flat_map(|s| {
        let images = index.input.target.chains().sets[s as usize].images.iter().enumerate();
        images.map(move |(i, image)| ((s, i as u32), image))
    });
    let damaged = images.filter(|(at, i)| {
        !decided.source_of.contains_key(at) && (lacks_itself(index, *at) || !index.whole_there(i))
    });
    damaged.filter_map(|(_, image)| time_there(index, image)).min()
}

/// Where time alone orders an image of the target.
pub(super) fn time_there(index: &Index<'_>, image: &Image) -> Option<(Option<u64>, Option<i64>)> {
    let link = index.input.target.files.get(&image.id).and_then(|f| f.recognised()).map(|r| &r.link);
    in_time(link, image)
}

/// Where time alone orders an image; `None` where something else does.
pub(super) fn in_time(link: Option<&Link>, image: &Image) -> Option<(Option<u64>, Option<i64>)> {
    match link? {
        Link::Time => Some((None, image.files.last().and_then(|f| f.mtime_ns))),
        Link::Moment { at, reverse: false } => Some((Some(*at), None)),
        _ => None,
    }
}

/// Finds on the target what an image that is sent builds on and the source lacks.
pub(super) fn attach(index: &Index<'_>, set: &ImageSet, decided: &mut DecidedSet<'_>) {
    for (i, image) in set.images.iter().enumerate() {
        let own = &decided.images[i];
        let new = own.sends() && matches!(own.found, Found::Absent { .. });
        if let Some(span) = image.span.filter(|s| new && s.first < s.last)
            && let Some(at) = beneath_span(index, decided, i, span)
        {
            decided.images[i].attached = Some(at);
            continue;
        }
        if new && own.onto.is_none() && attach::may_attach(index, image) {
            let at = index.attached(&index.target_path(&decided.place, &image.id));
            // What the source has, it knows the order of.
            let only_there =
                |at: &At| matches!(image.parent, Parent::Missing(_)) || !decided.source_of.contains_key(at);
            let at = at.filter(only_there);
            decided.images[i].upon_damage = at.is_some_and(|at| lacks_itself(index, at));
            decided.images[i].attached = at.filter(|at| attach::proved(index, index.at(*at)));
        } else if own.sends() && own.onto.is_none() && matches!(image.parent, Parent::Missing(_)) {
            decided.images[i].attached =
                attach::named(index, decided, i).filter(|at| attach::proved(index, index.at(*at)));
        }
    }
}

/// Says of what is (or will be) visible whether something below it is left out or lacking.
pub(super) fn complete<'a>(index: &Index<'a>, set: &'a ImageSet, decided: &mut DecidedSet<'a>) {
    let damaged = earliest_damaged(index, decided);
    for (i, image) in set.images.iter().enumerate() {
        let own = &decided.images[i];
        if own.fate == Fate::LeftOut {
            continue;
        }
        let restorable_there = own.visible()
            && !own.sends()
            && decided.there.get(i).copied().flatten().is_some_and(|at| index.at(at).restorable);
        // What the target consolidated is whole without what lies between it and its base; what builds on it lacks what it lacks.
        let there_instead = matches!(own.fate, Fate::Covered | Fate::Consolidated);
        if there_instead && restorable_there {
            continue;
        }
        // It stays as it lies there: what it lacks itself (a record that proves it, its content), this run does not mend.
        if let (Fate::Consolidated | Fate::Held, Some(at)) =
            (own.fate, decided.there.get(i).copied().flatten())
            && let there = index.at(at)
            && lacks_itself(index, at)
        {
            let what = there.missing.as_deref().unwrap_or("it is not whole on the target");
            decided.images[i].incomplete = Some(Incomplete::Broken(what));
            continue;
        }
        let after = |damaged| {
            let link = index.file(own.anchor).recognised.as_ref().map(|r| &r.link);
            image.kind == ImageKind::Incremental && in_time(link, image).is_some_and(|own| own > damaged)
        };
        if own.upon_damage || damaged.is_some_and(after) {
            let what = "an older image, which only the target has, is damaged or not verified there";
            decided.images[i].incomplete = Some(Incomplete::Broken(what));
            continue;
        }
        // What the source merged lacks what it goes on from lacks.
        let goes_on = match &image.parent {
            Parent::Image(p) => Some(*p),
            Parent::Missing(_) if own.merged => {
                own.merge.as_ref().and_then(|m| m.onto).and_then(Onto::source)
            }
            _ => None,
        };
        let below = |p: usize| match &decided.images[p] {
            parent if parent.fate == Fate::LeftOut && !parent.visible() => Some(Incomplete::LeftOut),
            // It stays as it lies there, whatever that is.
            parent if parent.fate == Fate::LeftOut => {
                let there = decided.there.get(p).copied().flatten().map(|at| index.at(at));
                let broken = there.filter(|there| !there.restorable);
                broken.map(|b| Incomplete::Broken(b.missing.as_deref().unwrap_or("an ancestor is not whole")))
            }
            parent => parent.incomplete.clone(),
        };
        let incomplete = match &image.parent {
            _ if goes_on.is_some() => goes_on.and_then(below),
            // Merged or not: what it builds on, or has taken in, is on the target.
            Parent::Missing(_) | Parent::Cycle
                if restorable_there || own.span.is_some() || own.merge.is_some() =>
            {
                None
            }
            Parent::Missing(what) => match own.attached.map(|at| index.at(at)) {
                Some(there) if there.restorable => None,
                Some(there) => {
                    Some(Incomplete::Broken(there.missing.as_deref().unwrap_or("an ancestor is not whole")))
                }
                None => Some(Incomplete::Lacking(what)),
            },
            Parent::Cycle => Some(Incomplete::Broken("its parents lead back to itself")),
            Parent::Image(_) | Parent::None => None,
        };
        let own_lack = || {
            let ancestors = match image.parent {
                Parent::Image(p) => set.images[p].restorable,
                Parent::None => true,
                _ => false,
            };
            let lacks = ancestors && !image.restorable && !restorable_there;
            lacks.then(|| Incomplete::Broken(image.missing.as_deref().unwrap_or("a part of it is missing")))
        };
        decided.images[i].incomplete = if there_instead { incomplete } else { incomplete.or_else(own_lack) };
    }
}
