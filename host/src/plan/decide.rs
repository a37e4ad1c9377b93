//! What becomes of each image of one set: copied, replaced, adopted, kept, covered, held back, left out.
//!
//! Four passes over the set, each cheap and skipped when nothing of the set changed: what the target has (`look`), what
//! it consolidated, what cannot be done now and everything that must wait for it, what will not be restorable.

use std::collections::HashMap;

use offsite_plugin_api::TargetPath;

use super::beside::beneath_span;
use super::compare::{Found, compare};
use super::explain::{Incomplete, Reason};
use super::index::{At, Index};
use super::merged::{self, Merged, Onto, merged};
use super::{Action, FileAction, FileStep, Sign, attach, consolidated, names, policy};
use crate::chain::{Image, ImageFile, ImageSet, Parent, Span};
use crate::format::{ImageKind, Link};
use crate::source::{Cause, same_mtime};
use crate::target::proof;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The target's files stay as they are.
    Keep,
    /// Files are copied, replaced or compared.
    Act,
    /// The user's filter or policy does not want it.
    LeftOut,
    /// It would be copied or replaced, but not now.
    Held,
    /// Another image of the target holds it.
    Covered,
    /// The target's consolidated image.
    Consolidated,
}

/// One image's decision.
pub(crate) struct Decided<'a> {
    pub fate: Fate,
    pub action: Action,
    pub reason: Reason<'a>,
    pub incomplete: Option<Incomplete<'a>>,
    /// In the order of publishing; without those that stay.
    pub files: Vec<FileStep>,
    /// The anchor's index in the inventory and what the target has of it.
    pub anchor: usize,
    pub found: Found,
    pub span: Option<Span>,
    /// What it may have absorbed at the source.
    pub merge: Option<Merged>,
    /// The target's image that nothing proves to be a consolidation, and that this one builds on.
    pub doubt: Option<&'a TargetPath>,
    /// The source merged others into it: it holds the restore point that it held.
    pub merged: bool,
    /// What it builds on then, where the source's chains do not show it.
    pub onto: Option<TargetPath>,
    /// The target's image that it builds on, where the source has that no more.
    pub attached: Option<At>,
    /// It will hang on an image that only the target has, and that lacks something itself.
    upon_damage: bool,
    /// The target's image that holds it, where the source has no image of that name.
    pub held_by: Option<At>,
    /// Of files that are compared: why what differs is not sent in this run.
    pub waits: Option<Reason<'a>>,
}

impl Decided<'_> {
    pub fn visible(&self) -> bool {
        !matches!(self.found, Found::Absent { .. })
    }

    fn sends(&self) -> bool {
        self.fate == Fate::Act && self.action != Action::Skip
    }

    /// Its files are compared, and sent where they differ.
    pub fn compares(&self) -> bool {
        self.fate == Fate::Act && self.files.iter().any(|f| f.action == FileAction::Adopt)
    }
}

/// A set's decisions, and where the target has its images (empty when nobody had to look).
pub(crate) struct DecidedSet<'a> {
    pub place: TargetPath,
    pub images: Vec<Decided<'a>>,
    pub there: Vec<Option<At>>,
    pub source_of: HashMap<At, usize>,
}

/// `near`: where in the inventory the last set ended.
pub(crate) fn decide<'a>(index: &Index<'a>, set: &'a ImageSet, near: &mut usize) -> DecidedSet<'a> {
    let place = index.place(set);
    let options = index.input.options;
    let set_out = policy::set_left_out(options.policy, &index.baseline, set);
    let images = set.images.iter().map(|image| {
        let out = if set_out {
            Some(Reason::SetBeforeBaseline)
        } else if policy::image_left_out(options.policy, &index.baseline, &image.id) {
            Some(Reason::ImageBeforeBaseline)
        } else {
            index.filter.image(&image.id, Some((image.format, image.kind))).map(Reason::Filtered)
        };
        let mut own = look(index, &place, &image.files, out, near);
        // It replaces nothing and is not sent: the target's copy, where there is one, is the better.
        if own.fate == Fate::Act
            && let Some((file, why)) = index.no_image_at_source(image)
        {
            own.fate = if own.visible() { Fate::Keep } else { Fate::Held };
            own.action = if own.visible() { Action::Skip } else { Action::Copy };
            own.files = Vec::new();
            own.reason = Reason::NotAnImage { file, why };
        }
        own
    });
    let mut decided =
        DecidedSet { images: images.collect(), place, there: Vec::new(), source_of: HashMap::new() };
    if decided.images.iter().all(|d| d.fate == Fate::Keep) && set.images.iter().all(|i| i.restorable) {
        mixed(index, set, &mut decided);
        return decided;
    }
    if !index.input.target.files.is_empty() {
        locate(index, set, &mut decided);
        cover(index, set, &mut decided);
        absorb(index, set, &mut decided);
        doubt(set, &mut decided);
    }
    hold(index, set, &mut decided);
    attach(index, set, &mut decided);
    complete(index, set, &mut decided);
    mixed(index, set, &mut decided);
    decided
}

/// Images that stay upon a parent that stays and is another one than they were published upon: file by file the target is
/// the source, and yet nothing shows that the source's own chain is one.
fn mixed<'a>(index: &Index<'a>, set: &'a ImageSet, decided: &mut DecidedSet<'a>) {
    let mut broken: Vec<Option<Incomplete<'a>>> = Vec::new();
    for (i, image) in set.images.iter().enumerate() {
        // Increments that run backwards hang on what moves on with every backup.
        let Parent::Image(p) = image.parent else { continue };
        if p > i {
            continue;
        }
        let recorded = |at: usize| {
            let own = &decided.images[at];
            let there = index.target_file(own.anchor, &decided.place).filter(|_| own.fate == Fate::Keep)?;
            there.recorded.as_deref()
        };
        let another = recorded(i).and_then(|r| r.parent.as_ref()).is_some_and(|upon| {
            recorded(p).is_some_and(|below| {
                below.blake3 != Some(upon.blake3)
                    && upon.path == index.target_path(&decided.place, &set.images[p].id)
            })
        });
        // An image between them is gone at the source, and its name shows no gap.
        let elsewhere = || {
            let upon = recorded(i)?.parent.as_ref()?;
            recorded(p).filter(|_| upon.path != index.target_path(&decided.place, &set.images[p].id))?;
            let there = index.at(index.target_image(&index.target_path(&decided.place, &image.id))?);
            there.missing.as_deref().filter(|_| !there.restorable)
        };
        let own = if another {
            Some(Incomplete::Another(&set.images[p].id))
        } else {
            elsewhere().map(Incomplete::Elsewhere)
        };
        if own.is_some() && broken.is_empty() {
            broken = vec![None; set.images.len()];
        }
        if !broken.is_empty() {
            broken[i] = own.or_else(|| broken[p].clone());
            if decided.images[i].fate == Fate::Keep && broken[i].is_some() {
                decided.images[i].incomplete = broken[i].clone();
            }
        }
    }
}

/// Compares an image's files with the target's. `out`: it is left out, and why.
pub(crate) fn look<'a>(
    index: &Index<'a>,
    place: &TargetPath,
    files: &[ImageFile],
    out: Option<Reason<'a>>,
    near: &mut usize,
) -> Decided<'a> {
    let mut steps = Vec::new();
    let (mut anchor, mut anchor_found) = (0, Found::Absent { published: false });
    let mut worst: Option<(u8, FileAction, Found)> = None;
    let mut unknown = None;
    for file in files {
        let Some(at) = index.position(&file.path, *near) else {
            continue; // chains of another inventory: nothing is known of the file, so nothing is done with it
        };
        *near = at;
        let there = index.target_file(at, place);
        let found = compare(index.file(at), there, there.is_none() && index.gone(at, place));
        (anchor, anchor_found) = (at, found);
        if there.is_none() {
            unknown = unknown.or_else(|| index.unknown(at, place));
        }
        let (weight, action) = file_action(found);
        if action == FileAction::Keep || out.is_some() {
            continue;
        }
        if worst.is_none_or(|(w, ..)| weight > w) {
            worst = Some((weight, action, found));
        }
        if steps.is_empty() {
            steps.reserve_exact(files.len());
        }
        steps.push(FileStep {
            action,
            path: file.path.clone(),
            target: index.target_path(place, &file.path),
            bytes: index.file(at).size,
        });
    }
    let (fate, action, reason) = match (out, worst) {
        (Some(reason), _) => (Fate::LeftOut, Action::Skip, reason),
        // Neither sent again nor taken for there.
        (None, _) if unknown.is_some() => {
            steps.clear();
            (Fate::Held, Action::Skip, Reason::Unknown(unknown.unwrap_or_default()))
        }
        (None, None) => (Fate::Keep, Action::Skip, Reason::UpToDate),
        (None, Some((_, action, found))) => {
            let (action, reason) = image_action(action, found, anchor_found);
            (Fate::Act, action, reason)
        }
    };
    Decided {
        fate,
        action,
        reason,
        incomplete: None,
        files: steps,
        anchor,
        found: anchor_found,
        span: None,
        merge: None,
        doubt: None,
        merged: false,
        onto: None,
        attached: None,
        upon_damage: false,
        held_by: None,
        waits: None,
    }
}

/// What to do with one file; the heaviest file of an image gives its reason.
fn file_action(found: Found) -> (u8, FileAction) {
    match found {
        Found::Same => (0, FileAction::Keep),
        Found::Rewritten | Found::Unread => (1, FileAction::Adopt),
        Found::Unrecorded { same_size: true } => (2, FileAction::Adopt),
        Found::Touched { same_size: true } => (3, FileAction::Adopt),
        Found::Absent { published: false } => (4, FileAction::Copy),
        Found::Absent { published: true } => (5, FileAction::Copy),
        Found::Unrecorded { same_size: false } => (6, FileAction::Replace),
        Found::Touched { same_size: false } => (7, FileAction::Replace),
        Found::SourceChanged => (8, FileAction::Replace),
    }
}

fn image_action<'a>(heaviest: FileAction, found: Found, anchor: Found) -> (Action, Reason<'a>) {
    match anchor {
        Found::Absent { published: true } => return (Action::Copy, Reason::Vanished),
        Found::Absent { published: false } => return (Action::Copy, Reason::New),
        _ => {}
    }
    let reason = match found {
        Found::Same => Reason::UpToDate,
        Found::Rewritten => Reason::AdoptRewritten,
        Found::Unread => Reason::AdoptUnread,
        Found::Unrecorded { same_size: true } => Reason::AdoptUnrecorded,
        Found::Touched { same_size: true } => Reason::AdoptTouched,
        Found::Absent { published: false } => Reason::FileNew,
        Found::Absent { published: true } => Reason::FileVanished,
        Found::Unrecorded { same_size: false } => Reason::Foreign,
        Found::Touched { same_size: false } => Reason::Touched,
        Found::SourceChanged => Reason::SourceChanged,
    };
    let action = match heaviest {
        FileAction::Replace => Action::Replace,
        FileAction::Copy => Action::Copy,
        FileAction::Adopt | FileAction::Keep | FileAction::Delete => Action::Skip,
    };
    (action, reason)
}

/// Fills `there` and `source_of`.
pub(crate) fn locate(index: &Index<'_>, set: &ImageSet, decided: &mut DecidedSet<'_>) {
    if !decided.there.is_empty() {
        return;
    }
    decided.there =
        set.images.iter().map(|i| index.target_image(&index.target_path(&decided.place, &i.id))).collect();
    decided.source_of = decided.there.iter().enumerate().filter_map(|(i, at)| Some(((*at)?, i))).collect();
}

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
fn cover<'a>(index: &Index<'a>, set: &'a ImageSet, decided: &mut DecidedSet<'a>) {
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
fn beneath_changes(index: &Index<'_>, decided: &DecidedSet<'_>, at: At) -> bool {
    let Parent::Image(parent) = index.at(at).parent else { return false };
    let below = decided.source_of.get(&(at.0, parent as u32)).map(|&s| &decided.images[s]);
    below.is_some_and(|own| own.sends() && own.found == Found::SourceChanged)
}

fn unproven(index: &Index<'_>, image: &Image) -> bool {
    image.unproven && !index.input.options.accept_unproven && !index.input.target.accepted.contains(&image.id)
}

/// Whether the source's image is another one than when it was published. The size says nothing here: the record of a
/// consolidated image has the consolidated size.
fn source_moved(index: &Index<'_>, place: &TargetPath, anchor: usize) -> bool {
    let recorded = index.target_file(anchor, place).and_then(|f| f.recorded.as_ref());
    recorded.is_some_and(|r| !same_mtime(r.source_mtime_ns, index.file(anchor).mtime_ns))
}

/// Gives images that the source consolidated their span, and what their transfer is to prove.
fn absorb<'a>(index: &Index<'a>, set: &'a ImageSet, decided: &mut DecidedSet<'a>) {
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

/// Holds back what cannot be done now, and what would be visible without an ancestor that is held back.
fn hold<'a>(index: &Index<'a>, set: &'a ImageSet, decided: &mut DecidedSet<'a>) {
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
fn leave_held<'a>(index: &Index<'a>, set: &'a ImageSet, decided: &mut DecidedSet<'a>) {
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
fn held_below(index: &Index<'_>, set: &ImageSet, decided: &DecidedSet<'_>, i: usize) -> Option<usize> {
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
fn differing_waits<'a>(
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
fn own_hold<'a>(own: &mut Decided<'a>, reason: Reason<'a>) {
    own.fate = Fate::Held;
    own.files = Vec::new();
    own.reason = reason;
}

fn cannot<'a>(
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
fn ancestor_waits<'a>(index: &Index<'a>, image: &'a Image, anchor: usize) -> Option<Reason<'a>> {
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
fn unsettled_on_target<'a>(index: &Index<'a>, set: &str, decided: &DecidedSet<'_>) -> Option<&'a TargetPath> {
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

/// Says of each image whether it builds on what nothing proves. Ancestors come first.
fn doubt<'a>(set: &'a ImageSet, decided: &mut DecidedSet<'a>) {
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
fn lacks_itself(index: &Index<'_>, at: At) -> bool {
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
fn earliest_damaged(index: &Index<'_>, decided: &DecidedSet<'_>) -> Option<(Option<u64>, Option<i64>)> {
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
fn time_there(index: &Index<'_>, image: &Image) -> Option<(Option<u64>, Option<i64>)> {
    let link = index.input.target.files.get(&image.id).and_then(|f| f.recognised()).map(|r| &r.link);
    in_time(link, image)
}

/// Where time alone orders an image; `None` where something else does.
fn in_time(link: Option<&Link>, image: &Image) -> Option<(Option<u64>, Option<i64>)> {
    match link? {
        Link::Time => Some((None, image.files.last().and_then(|f| f.mtime_ns))),
        Link::Moment { at, reverse: false } => Some((Some(*at), None)),
        _ => None,
    }
}

/// Finds on the target what an image that is sent builds on and the source lacks.
fn attach(index: &Index<'_>, set: &ImageSet, decided: &mut DecidedSet<'_>) {
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
fn complete<'a>(index: &Index<'a>, set: &'a ImageSet, decided: &mut DecidedSet<'a>) {
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
