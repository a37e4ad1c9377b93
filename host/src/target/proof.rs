//! Which assembled images are proved to be restorable. Pure, and linear in the number of images.
//!
//! Names and headers say what hangs on what; they do not say that what lies there is what was published, nor that it was
//! published upon what lies below it now. That is for the records to say: an image is restorable only while every ancestor,
//! and itself, is recorded with a digest, its entry is as it was recorded, and its digest is the one that the image
//! above was published upon. A proved span stands for what it absorbed: a merge keeps the last restore point.
//!
//! What is not known is told as "not verified yet", what is known to be wrong by the name of the ancestor that is.

use std::collections::HashMap;

use offsite_plugin_api::TargetPath;

use super::{ParentRecord, Recorded, TargetFile, TargetView};
use crate::chain::{Chains, Evidence, Image, ImageSet, Parent};
use crate::format::{ImageKind, Link, Role};

/// Takes back from `restorable` what the records do not prove, and says why; marks as unproven what only an unsigned
/// manifest says.
pub(super) fn apply(view: &TargetView, chains: &mut Chains) {
    for set in &mut chains.sets {
        let mut lacks: Vec<Option<String>> = Vec::with_capacity(set.images.len());
        let mut unproven = Vec::with_capacity(set.images.len());
        // Ancestors come before descendants, but where increments run backwards: those are looked at the other way round.
        let order: Vec<usize> =
            if backwards(view, set) { depth_first(set) } else { (0..set.images.len()).collect() };
        lacks.resize(set.images.len(), None);
        unproven.resize(set.images.len(), false);
        let mut by_path = None;
        let mut judged = vec![false; set.images.len()];
        for at in order {
            let image = &set.images[at];
            let parent = match image.parent {
                Parent::Image(parent) => Some(parent),
                _ => None,
            };
            // What it was published upon counts, where that is there as it was, not what happens to lie between: images that
            // a base took in lie there until they are deleted.
            let upon = parent.and_then(|p| published_upon(view, set, at, p, &mut by_path));
            let below = upon.filter(|&upon| judged[upon]).or(parent);
            lacks[at] = below
                .and_then(|p| lacks[p].clone())
                .or_else(|| own(view, image))
                .or_else(|| link(view, set, at, parent?, &lacks, &mut by_path));
            judged[at] = true;
            unproven[at] = parent.is_some_and(|p| unproven[p]) || vouched(view, image);
        }
        for (image, (lacks, vouched)) in set.images.iter_mut().zip(lacks.into_iter().zip(unproven)) {
            image.unproven |= vouched;
            if let Some(lacks) = lacks
                && image.restorable
            {
                image.restorable = false;
                image.missing = Some(lacks);
            }
        }
    }
}

fn recorded<'a>(view: &'a TargetView, path: &TargetPath) -> Option<&'a Recorded> {
    view.files.recorded(path)
}

fn backwards(view: &TargetView, set: &ImageSet) -> bool {
    set.images.iter().enumerate().any(|(at, i)| matches!(i.parent, Parent::Image(p) if p > at))
        && set.images.iter().any(|i| reverse(view, i))
}

fn reverse(view: &TargetView, image: &Image) -> bool {
    let recognised = view.files.get(&image.id).and_then(|f| f.recognised());
    recognised.is_some_and(|r| matches!(r.link, Link::Moment { reverse: true, .. }))
        && image.kind != ImageKind::Base
}

/// Every image after its parent; those on a cycle in any order.
fn depth_first(set: &ImageSet) -> Vec<usize> {
    let mut order = Vec::with_capacity(set.images.len());
    let mut done = vec![false; set.images.len()];
    let mut path = Vec::new();
    for start in 0..set.images.len() {
        let mut at = start;
        while !done[at] {
            done[at] = true;
            path.push(at);
            let Parent::Image(parent) = set.images[at].parent else { break };
            at = parent;
        }
        order.extend(path.drain(..).rev());
    }
    order
}

/// Images that lie there without a record: nothing but the user's word can make them known where the source has no such
/// file to compare them with.
pub fn unrecorded(view: &TargetView) -> impl Iterator<Item = TargetPath> + '_ {
    let images = view.chains().sets.iter().flat_map(|s| &s.images);
    images.filter(|i| recorded(view, &i.id).is_none()).map(|i| i.id.clone())
}

/// Whether an image of the target lacks something itself, whatever it builds on.
pub fn unproved_itself(view: &TargetView, image: &Image) -> bool {
    own(view, image).is_some()
}

/// What keeps this image itself from being what was published.
fn own(view: &TargetView, image: &Image) -> Option<String> {
    let name = || image.id.display();
    for file in image.files.iter().filter(|f| f.role != Role::SideCar) {
        let Some(there) = view.files.get(&file.path) else { continue };
        let Some(recorded) = &there.recorded else {
            // Merged on the target under a name that says so: the source never had it to compare it with.
            if image.evidence == Some(Evidence::Name) || view.accepted.contains(&image.id) {
                continue;
            }
            return Some(format!("not verified yet: '{}' was not compared with the source", name()));
        };
        if recorded.touched(&there.entry) {
            // What was merged on the target is another file by that: its evidence was looked at before. What was published
            // under a merge's name has its own record.
            let own = match image.evidence {
                None => true,
                Some(Evidence::Name) => !view.accepted.contains(&image.id),
                Some(_) => false,
            };
            if own && !header_moved(there, recorded) {
                let how = if there.entry.size == recorded.size {
                    "was changed on the target since it was published".to_owned()
                } else {
                    format!("has {} bytes on the target instead of {}", there.entry.size, recorded.size)
                };
                return Some(format!("altered: '{}' {how}", file.path.display()));
            }
        } else if recorded.blake3.is_none() {
            return Some(format!("not verified yet: '{}' was never read back", name()));
        }
    }
    None
}

/// Whether the file's own header, read back, names another parent than it did when it was published: it was merged with
/// what lay between.
fn header_moved(there: &TargetFile, recorded: &Recorded) -> bool {
    let now = there.recognised().map(|r| &r.link);
    match (now, recorded.recognised.as_ref().map(|r| &r.link)) {
        (Some(Link::File(now)), Some(Link::File(then))) => !now.as_bytes().ends_with(then.as_bytes()),
        (Some(Link::Id { parent: now, .. }), Some(Link::Id { parent: then, .. })) => now != then,
        _ => false,
    }
}

/// Whether something was merged into the image on the target, by any evidence.
fn merged(view: &TargetView, image: &Image) -> bool {
    image.evidence.is_some()
        || view
            .files
            .get(&image.id)
            .is_some_and(|f| f.recorded.as_ref().is_some_and(|r| r.touched(&f.entry) && header_moved(f, r)))
}

/// Whether it was merged after what is recorded of it. The record of what was published under a merge's name is its own.
fn merged_since(view: &TargetView, image: &Image) -> bool {
    let touched = |f: &TargetFile| f.recorded.as_ref().is_none_or(|r| r.touched(&f.entry));
    merged(view, image)
        && (image.evidence != Some(Evidence::Name) || view.files.get(&image.id).is_none_or(touched))
}

fn vouched(view: &TargetView, image: &Image) -> bool {
    !view.vouched.is_empty() && image.files.iter().any(|f| view.vouched.contains(&f.path))
}

/// What speaks against the image having been published upon that parent.
fn link(
    view: &TargetView,
    set: &ImageSet,
    at: usize,
    parent: usize,
    lacks: &[Option<String>],
    by_path: &mut Option<HashMap<TargetPath, usize>>,
) -> Option<String> {
    let (image, below) = (&set.images[at], &set.images[parent]);
    // Each of them was the newest when it was published, upon the full one, which has moved on since.
    if reverse(view, image) {
        return None;
    }
    let own = recorded(view, &image.id)?;
    let Some(upon) = own.parent.as_deref() else {
        if !view.parents_known {
            return None;
        }
        // Merged on the target: its evidence says what it hangs on, or what hangs on it.
        if merged(view, image) || merged(view, below) {
            return None;
        }
        return Some(format!(
            "not verified yet: it is not recorded that '{}' was published upon '{}'",
            image.id.display(),
            below.id.display()
        ));
    };
    if upon.path == below.id {
        return (!fits(view, below, upon.blake3)).then(|| another(&below.id, &image.id));
    }
    // Where several images hold one number, or a consolidated one lies beside what it holds, any of them serves.
    if let Some(&other) = index(set, by_path).get(&upon.path) {
        if lacks[other].is_none() && fits(view, &set.images[other], upon.blake3) {
            return None;
        }
        if merged_since(view, image) {
            return merged_upon(view, image, upon, below);
        }
        return (!merged(view, below)).then(|| another(&upon.path, &image.id));
    }
    // What it was published upon is gone; a proved span of it, or of what lies below it, holds that.
    if merged_since(view, image) {
        return merged_upon(view, image, upon, below);
    }
    if merged(view, below) && holds(below) {
        return None;
    }
    Some(format!(
        "missing: '{}', which '{}' was published upon, is gone",
        upon.path.display(),
        image.id.display()
    ))
}

/// What speaks against an image that was merged on the target building on what lies below it now.
fn merged_upon(view: &TargetView, image: &Image, upon: &ParentRecord, below: &Image) -> Option<String> {
    (grew_from(view, upon, below) == Some(false)).then(|| another(&below.id, &image.id))
}

/// Whether what was merged on the target grew from what lies below it now: by the records of what was published between
/// them. `None` where they do not say.
fn grew_from(view: &TargetView, upon: &ParentRecord, below: &Image) -> Option<bool> {
    let mut upon = upon;
    for _ in 0..=view.gone.len() + view.files.len() {
        if upon.path == below.id {
            return Some(fits(view, below, upon.blake3));
        }
        let gone = || view.gone.get(&upon.path).map(|gone| &**gone);
        let record = recorded(view, &upon.path).or_else(gone)?;
        if record.blake3.is_some_and(|digest| digest != upon.blake3) {
            return Some(false);
        }
        upon = record.parent.as_deref()?;
    }
    None
}

/// The image of the set that `at` was published upon, if that is another one than `parent` and as it was then.
fn published_upon(
    view: &TargetView,
    set: &ImageSet,
    at: usize,
    parent: usize,
    by_path: &mut Option<HashMap<TargetPath, usize>>,
) -> Option<usize> {
    let upon = recorded(view, &set.images[at].id)?.parent.as_deref()?;
    if upon.path == set.images[parent].id {
        return None;
    }
    let other = *index(set, by_path).get(&upon.path)?;
    fits(view, &set.images[other], upon.blake3).then_some(other)
}

fn index<'a>(
    set: &ImageSet,
    by_path: &'a mut Option<HashMap<TargetPath, usize>>,
) -> &'a HashMap<TargetPath, usize> {
    by_path.get_or_insert_with(|| {
        set.images.iter().enumerate().map(|(at, image)| (image.id.clone(), at)).collect()
    })
}

/// Whether an image holds a run, or is one that time alone orders.
fn holds(image: &Image) -> bool {
    image.span.is_none_or(|s| s.first < s.last)
}

/// Whether what lies there is the content with that digest, or was merged from it.
fn fits(view: &TargetView, image: &Image, digest: [u8; 32]) -> bool {
    let Some(recorded) = recorded(view, &image.id) else { return view.accepted.contains(&image.id) };
    let touched = view.files.get(&image.id).is_some_and(|f| recorded.touched(&f.entry));
    if touched { merged(view, image) } else { recorded.blake3 == Some(digest) }
}

fn another(ancestor: &TargetPath, image: &TargetPath) -> String {
    format!(
        "its ancestor '{}' is another one: it was replaced after '{}' was published upon it",
        ancestor.display(),
        image.display()
    )
}

/// What the target's chains say that each image builds on, where both are as they were recorded: for records of versions
/// that did not say it. (image, parent).
pub fn links(view: &TargetView) -> Vec<(TargetPath, TargetPath)> {
    let mut links = Vec::new();
    let as_recorded = |image: &Image| {
        view.files
            .get(&image.id)
            .is_some_and(|f| f.recorded.as_ref().is_some_and(|r| r.blake3.is_some() && !r.touched(&f.entry)))
    };
    for set in &view.chains().sets {
        for image in &set.images {
            if let Parent::Image(parent) = image.parent
                && recorded(view, &image.id).is_some_and(|r| r.parent.is_none())
                && as_recorded(image)
                && as_recorded(&set.images[parent])
            {
                links.push((image.id.clone(), set.images[parent].id.clone()));
            }
        }
    }
    links
}

/// Images that were published upon another content of their parent (or upon another parent) than what lies there now, with
/// what they hang on: what accepting them means.
pub fn doubted(view: &TargetView) -> Vec<(TargetPath, TargetPath)> {
    let mut found = Vec::new();
    for set in &view.chains().sets {
        let clear = vec![None; set.images.len()];
        let mut by_path = None;
        for (at, image) in set.images.iter().enumerate() {
            if let Parent::Image(parent) = image.parent
                && link(view, set, at, parent, &clear, &mut by_path).is_some()
            {
                found.push((image.id.clone(), set.images[parent].id.clone()));
            }
        }
    }
    found
}
