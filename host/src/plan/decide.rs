//! What becomes of each image of one set: copied, replaced, adopted, kept, covered, held back, left out.
//!
//! Four passes over the set, each cheap and skipped when nothing of the set changed: what the target has (`look`), what
//! it consolidated (`cover`), what cannot be done now and everything that must wait for it (`waits`), what will not be
//! restorable (`lacks`).

use std::collections::HashMap;

use offsite_plugin_api::TargetPath;

use super::compare::{Found, compare};
use super::cover::{absorb, cover};
use super::explain::{Incomplete, Reason};
use super::index::{At, Index};
use super::lacks::{attach, complete, doubt};
use super::merged::Merged;
use super::waits::hold;
use super::{Action, FileAction, FileStep, policy};
use crate::chain::{ImageFile, ImageSet, Parent, Span};

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
    pub upon_damage: bool,
    /// The target's image that holds it, where the source has no image of that name.
    pub held_by: Option<At>,
    /// Of files that are compared: why what differs is not sent in this run.
    pub waits: Option<Reason<'a>>,
}

impl Decided<'_> {
    pub fn visible(&self) -> bool {
        !matches!(self.found, Found::Absent { .. })
    }

    pub fn sends(&self) -> bool {
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
