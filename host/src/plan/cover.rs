//! What the target's consolidated images hold of a set, and what the source's images took in.

use super::beside::beneath_span;
use super::compare::Found;
use super::decide::{DecidedSet, Fate};
use super::explain::Reason;
use super::index::{At, Index};
use super::lacks::{in_time, time_there};
use super::merged::{self, Onto, merged};
use super::waits::own_hold;
use super::{Action, Sign, consolidated};
use crate::chain::{Image, ImageSet, Parent, Span};
use crate::source::same_mtime;
use offsite_plugin_api::TargetPath;

/// What holds an image on the target in its stead.
#[derive(Clone, Copy)]
struct Holder<'a> {
    by: &'a TargetPath,
    unproven: bool,
    /// Where only the target has it.
    only_there: Option<At>,
    /// It also stands for this image towards later ones.
    stands_in: bool,
}

/// Keeps what the target consolidated, and leaves out what that holds, unless another image needs it.
pub(super) fn cover<'a>(index: &Index<'a>, set: &'a ImageSet, decided: &mut DecidedSet<'a>) {
    let mut holders: Vec<Option<Holder<'a>>> = vec![None; set.images.len()];
    for i in 0..set.images.len() {
        let own = &decided.images[i];
        let candidate =
            matches!(own.found, Found::Touched { .. } | Found::Unrecorded { .. } | Found::SourceChanged);
        // Of a source's file that is no image nothing is taken: the target's may be a consolidation all the same.
        let no_image = own.visible() && matches!(own.reason, Reason::NotAnImage { .. });
        let as_it_was = own.fate == Fate::Act && !source_moved(index, &decided.place, own.anchor);
        if !candidate || !(as_it_was || no_image) {
            continue;
        }
        let covered = consolidated::covered(index, set, &decided.place, &decided.there, i);
        let (Some(covered), Some(at)) = (covered, decided.there[i]) else { continue };
        let image = index.at(at);
        let unproven = unproven(index, image) || beneath_changes(index, decided, at);
        for &p in &covered {
            holders[p] = Some(Holder { by: &set.images[i].id, unproven, only_there: None, stands_in: false });
        }
        let own = &mut decided.images[i];
        own.fate = Fate::Consolidated;
        own.action = Action::Skip;
        own.files = Vec::new();
        own.span = image.span.filter(|s| s.first < s.last);
        if !no_image {
            own.reason = Reason::Consolidated { images: covered.len() + 1, unproven };
        }
    }
    for held in
        consolidated::covered_by_others(index, set, &decided.place, &decided.there, &decided.source_of)
    {
        let image = index.at(held.holder);
        let changed = |onto: &usize| {
            let below = &decided.images[*onto];
            below.fate == Fate::Act && below.found == Found::SourceChanged
        };
        if let Some(onto) = held.onto.filter(changed) {
            // Only what is sent of that shows whether the chain began anew, and then nothing of it is held there.
            for p in
                held.images.into_iter().filter(|p| decided.images[*p].fate == Fate::Act).collect::<Vec<_>>()
            {
                own_hold(&mut decided.images[p], Reason::Waiting(&set.images[onto].id));
            }
            continue;
        }
        for (n, p) in held.images.into_iter().enumerate() {
            if decided.images[p].fate == Fate::Act {
                let stands_in = held.stands_in && n == 0;
                let unproven = unproven(index, image) || beneath_changes(index, decided, held.holder);
                holders[p] =
                    Some(Holder { by: &image.id, unproven, only_there: Some(held.holder), stands_in });
            }
        }
    }
    // Descendants first: an image that another one needs, which is not held itself, is not covered. Where time alone orders
    // the set, what is newer than the holder hangs on that, whatever is sent again.
    for i in (0..set.images.len()).rev() {
        let own = &decided.images[i];
        let stays = holders[i].is_none() && (own.visible() || own.fate == Fate::Act);
        if !stays || own.fate == Fate::Consolidated {
            continue;
        }
        let upon = |holder: At| {
            let link = index.file(own.anchor).recognised.as_ref().map(|r| &r.link);
            let (there, here) = (time_there(index, index.at(holder)), in_time(link, &set.images[i]));
            // One that changed may have taken in part of what that holds.
            let changed = own.sends() && own.found == Found::SourceChanged;
            !changed && there.zip(here).is_some_and(|(there, here)| there < here)
        };
        let below = match set.images[i].parent {
            Parent::Image(p) => Some(p),
            // What lay between is gone at the source: if it was merged into this one, this one builds on what is left below.
            // A plain new one builds on what is gone.
            Parent::Missing(_)
                if own.sends()
                    && (!matches!(own.found, Found::Absent { .. })
                        || set.images[i].span.is_some_and(|span| span.first < span.last)) =>
            {
                merged::lower(index, set, decided, i)
            }
            _ => None,
        };
        if let Some(p) = below
            && holders[p].is_some_and(|h| !h.stands_in && !h.only_there.is_some_and(upon))
        {
            holders[p] = None;
        }
    }
    for (own, holder) in decided.images.iter_mut().zip(holders) {
        if let Some(holder) = holder
            && own.fate == Fate::Act
        {
            own.fate = Fate::Covered;
            own.action = Action::Skip;
            own.files = Vec::new();
            own.reason = Reason::Covered { by: holder.by, unproven: holder.unproven };
            own.held_by = holder.only_there;
        }
    }
}

/// Whether this run replaces what an image of the target builds on: then nothing says any more that it holds what the source
/// has.
pub(super) fn beneath_changes(index: &Index<'_>, decided: &DecidedSet<'_>, at: At) -> bool {
    let Parent::Image(parent) = index.at(at).parent else { return false };
    let below = decided.source_of.get(&(at.0, parent as u32)).map(|&s| &decided.images[s]);
    below.is_some_and(|own| own.sends() && own.found == Found::SourceChanged)
}

pub(super) fn unproven(index: &Index<'_>, image: &Image) -> bool {
    image.unproven && !index.input.options.accept_unproven && !index.input.target.accepted.contains(&image.id)
}

/// Whether the source's image is another one than when it was published. The size says nothing here: the record of a
/// consolidated image has the consolidated size.
pub(super) fn source_moved(index: &Index<'_>, place: &TargetPath, anchor: usize) -> bool {
    let recorded = index.target_file(anchor, place).and_then(|f| f.recorded.as_ref());
    recorded.is_some_and(|r| !same_mtime(r.source_mtime_ns, index.file(anchor).mtime_ns))
}

/// Gives images that the source consolidated their span, and what their transfer is to prove.
pub(super) fn absorb<'a>(index: &Index<'a>, set: &'a ImageSet, decided: &mut DecidedSet<'a>) {
    for (i, image) in set.images.iter().enumerate() {
        let own = &decided.images[i];
        let named = image.span.filter(|s| s.first < s.last);
        if let Some(span) = named
            && own.fate != Fate::Consolidated
        {
            let beneath = beneath_span(index, decided, i, span).and_then(|at| index.at(at).number);
            let first = beneath.map_or(span.first, |n| n + 1);
            decided.images[i].span = Some(Span { first, ..span });
        }
        let own = &decided.images[i];
        if own.fate != Fate::Act || own.found != Found::SourceChanged {
            continue;
        }
        let merge = merged(index, set, decided, i);
        let own = &mut decided.images[i];
        own.merged = named.is_some() || merge.as_ref().is_some_and(|m| m.sign != Sign::Missing);
        let Some(merge) = merge else { continue };
        if named.is_none() {
            own.span = merge.span;
        }
        if own.merged && matches!(image.parent, Parent::Missing(_)) {
            own.onto = merge.onto.and_then(Onto::source).map(|p| set.images[p].id.clone());
        }
        if let Some(Onto::Target(at)) = merge.onto.filter(|_| own.merged) {
            own.attached = Some(at);
        }
        if !merge.images.is_empty() {
            let images = merge.images.len();
            own.reason = match merge.sign {
                Sign::Missing => Reason::ChangedUnproven { images },
                _ => Reason::Merged { images },
            };
        }
        own.merge = Some(merge);
    }
}
