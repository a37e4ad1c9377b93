//! Consolidation on the target: which images of the source one image of the target holds.
//!
//! A header proves it by naming an earlier ancestor as its parent; a closed format only by a span that manifest,
//! catalog or the user vouch for, which the target's chains carry. What the source merged is `merged`'s.

use std::collections::HashMap;

use offsite_plugin_api::TargetPath;

use super::index::{At, Index};
use crate::chain::{Evidence, Image, ImageSet, Parent};
use crate::format::{ImageKind, Link};

/// The ancestors of source image `i` that the target's image of the same name holds beside it; `None` when it is no
/// consolidation. Empty where the source lost them meanwhile. `there`: where the target has each image of the set.
pub(crate) fn covered(
    index: &Index<'_>,
    set: &ImageSet,
    place: &TargetPath,
    there: &[Option<At>],
    i: usize,
) -> Option<Vec<usize>> {
    let at = there[i]?;
    let image = index.at(at);
    if !index.whole_there(image) {
        return None; // what is empty or begins otherwise holds nothing
    }
    let span = image.span.filter(|s| s.first < s.last);
    if span.is_some() && span == set.images[i].span {
        return None; // consolidated at the source, and replicated like that
    }
    // In a set that only time orders, evidence has no numbers.
    let vouched = matches!(image.evidence, Some(Evidence::Catalog | Evidence::Accepted | Evidence::Manifest));
    if span.is_none() && !vouched && !header_names_another_parent(index, place, &set.images[i]) {
        return None;
    }
    let parent = match image.parent {
        Parent::Image(p) => Some((at.0, p as u32)),
        _ => None,
    };
    let mut covered = Vec::new();
    let mut below = &set.images[i].parent;
    while let Parent::Image(p) = *below {
        let ancestor = &set.images[p];
        if parent.is_some() && parent == there[p] {
            return Some(covered);
        }
        if ancestor.kind == ImageKind::Base {
            return None; // a base is never merged into another image
        }
        let inside = match (span, ancestor.number) {
            (Some(span), Some(number)) => number >= span.first,
            _ => true,
        };
        if !inside {
            return None; // a gap below the span: damage, to be copied again
        }
        // What the target still shows beside it (a branch needs it) is not covered.
        if there[p].is_none() {
            covered.push(p);
        }
        if span.is_some_and(|s| ancestor.number == Some(s.first)) {
            return Some(covered); // what lies below, the source may have lost meanwhile
        }
        below = &ancestor.parent;
    }
    (matches!(below, Parent::Missing(_)) && image.restorable).then_some(covered)
}

/// What a consolidated image of the target holds of a source that does not have that image (any more, or not yet).
pub(crate) struct Elsewhere {
    pub holder: At,
    /// The image of the source that it builds on; `None` where only the target has that.
    pub onto: Option<usize>,
    /// The images of the source, the highest first.
    pub images: Vec<usize>,
    /// The holder is the highest of them, under another name: what builds on that builds on it.
    pub stands_in: bool,
}

/// Consolidated images of the target that are unknown at the source, and the source's images that each holds. To send one
/// of those again would take the evidence away where it is that they are gone; as long as the source has any of them, such
/// a holder stays (`needs`).
pub(crate) fn covered_by_others(
    index: &Index<'_>,
    set: &ImageSet,
    place: &TargetPath,
    there: &[Option<At>],
    source_of: &HashMap<At, usize>,
) -> Vec<Elsewhere> {
    let mut sets: Vec<u32> = there.iter().flatten().map(|at| at.0).collect();
    // Nothing else of the set may be on both sides.
    for (image, _) in set.images.iter().zip(there).filter(|(_, there)| there.is_none()) {
        let gone = &index.input.target.gone;
        let recorded = if gone.is_empty() { None } else { gone.get(&index.target_path(place, &image.id)) };
        sets.extend_from_slice(recorded.map_or(&[], |r| index.sets_recorded(&r.set)));
    }
    sets.sort_unstable();
    sets.dedup();
    let mut found = Vec::new();
    for s in sets {
        for (i, image) in index.input.target.chains().sets[s as usize].images.iter().enumerate() {
            let holder = (s, i as u32);
            let Parent::Image(parent) = image.parent else { continue };
            let span = image.span.filter(|s| s.first < s.last);
            if span.is_none() && image.evidence != Some(Evidence::Catalog) || !index.whole_there(image) {
                continue; // nothing says that it holds others; and what is empty or begins otherwise holds nothing
            }
            if source_of.contains_key(&holder) {
                continue;
            }
            if upon_another(index, image, index.at((s, parent as u32))) {
                continue; // another chain's: the source's began anew
            }
            let onto = source_of.get(&(s, parent as u32)).copied();
            let is_last = |i: &Image| span.is_some_and(|span| i.number == Some(span.last));
            let stands_in = set.images.iter().any(is_last);
            if !stands_in && !stays(index, image) {
                continue;
            }
            let written = image.files.last().and_then(|f| f.mtime_ns);
            let inside = |&p: &usize| {
                let (own, written_then) =
                    (&set.images[p], set.images[p].files.last().and_then(|f| f.mtime_ns));
                there[p].is_none()
                    && match (span, own.number) {
                        (Some(span), Some(number)) => (span.first..=span.last).contains(&number),
                        (None, None) => written_then < written,
                        _ => false,
                    }
            };
            let tops = (0..set.images.len()).rev().filter(|&top| !stands_in || is_last(&set.images[top]));
            for top in tops.filter(inside) {
                let mut run = vec![top];
                let mut below = &set.images[top].parent;
                while let Parent::Image(p) = *below
                    && Some(p) != onto
                {
                    run.push(p);
                    below = &set.images[p].parent;
                }
                // What the source has no more, the target has.
                let ends = match (below, onto) {
                    (Parent::Image(p), Some(onto)) => *p == onto,
                    (Parent::Missing(_), None) => image.restorable,
                    _ => false,
                };
                if ends && run.iter().all(inside) {
                    found.push(Elsewhere { holder, onto, images: run, stands_in });
                    break;
                }
            }
        }
    }
    found
}

/// Whether it was published upon another content of its parent than what lies there now.
fn upon_another(index: &Index<'_>, image: &Image, parent: &Image) -> bool {
    let recorded = |image: &Image| index.input.target.files.recorded(&image.id);
    let upon = recorded(image).and_then(|r| r.parent.as_ref()).filter(|upon| upon.path == parent.id);
    upon.is_some_and(|upon| recorded(parent).is_some_and(|r| r.blake3 != Some(upon.blake3)))
}

/// Whether the target's image stays although the settled source has none of its name: it is being written there, or nothing
/// is deleted, or it holds others only as long as these are not there.
fn stays(index: &Index<'_>, image: &Image) -> bool {
    let recorded = index.input.target.files.recorded(&image.id);
    let at_source = recorded.map_or(&image.id, |r| &r.image);
    index.unsettled.contains_key(at_source) || !index.input.options.sync || by_absence(image)
}

/// Whether all that shows that the target's image holds others is that these are gone.
pub(crate) fn by_absence(image: &Image) -> bool {
    matches!(image.evidence, Some(Evidence::Catalog | Evidence::Accepted))
}

/// Whether the target's file itself says who its parent is, rather than its place in an order, and names another one
/// than the source's file does.
fn header_names_another_parent(index: &Index<'_>, place: &TargetPath, image: &Image) -> bool {
    let path = index.target_path(place, &image.id);
    let there = index.input.target.files.get(&path).and_then(|f| f.recognised()).map(|r| &r.link);
    let here =
        index.position(&image.id, 0).and_then(|at| index.file(at).recognised.as_ref()).map(|r| &r.link);
    match (there, here) {
        (Some(Link::File(there)), Some(Link::File(here))) => *there != index.target_path(place, here),
        (Some(Link::Id { parent: there, .. }), Some(Link::Id { parent: here, .. })) => there != here,
        _ => false,
    }
}
