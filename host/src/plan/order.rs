//! The order of steps: every prefix of it keeps the laws, and `after` says which parallel orders do too.
//!
//! Ancestors before descendants; files of a whole set after all of its images; several replaced files of one set in one
//! group, together with new ancestors that they need; deletions last.

use std::borrow::Cow;
use std::sync::Arc;

use offsite_plugin_api::TargetPath;

use super::decide::{Decided, DecidedSet, Fate};
use super::explain::{Incomplete, Reason};
use super::index::Index;
use super::{Action, Code, FileAction, Step, decide, waits};
use crate::chain::{ImageSet, Other, Parent};
use crate::format::Format;

#[derive(Default)]
pub(crate) struct Steps {
    pub steps: Vec<Step>,
    /// See [`super::Plan::links`].
    pub links: Vec<(TargetPath, TargetPath)>,
    /// Images that stay upon another ancestor than they were published upon: how many, and one of them with that.
    pub another: (usize, Option<(TargetPath, TargetPath)>),
    groups: u32,
}

/// Nothing stands before these steps.
const FREE: u32 = u32::MAX;

impl Steps {
    /// Adds a set's steps. Answers the steps that nothing else of the set waits for: who waits for them waits for all.
    pub fn set<'a>(
        &mut self,
        index: &Index<'a>,
        set: &'a ImageSet,
        decided: DecidedSet<'a>,
        near: &mut usize,
    ) -> Vec<usize> {
        let name: Arc<str> = set.id.as_str().into();
        let group = self.group(set, &decided.images);
        self.link(index, set, &decided);
        let mut nearest = vec![FREE; set.images.len()];
        let mut awaited = Vec::new();
        let first = self.steps.len();
        let DecidedSet { place, images, .. } = decided;
        let none: Vec<bool> = images.iter().map(no_image).collect();
        for (i, (image, own)) in set.images.iter().zip(images).enumerate() {
            let below = match image.parent {
                Parent::Image(p) => nearest[p],
                Parent::None => FREE,
                // What it builds on cannot be seen: everything of the set that is older goes first.
                Parent::Missing(_) | Parent::Cycle => i.checked_sub(1).map_or(FREE, |p| nearest[p]),
            };
            let acts = own.fate == Fate::Act;
            let at_source = own.onto.as_ref().or(match &image.parent {
                // What the target has there need not be what the source had when it made this one.
                Parent::Image(p) if none[*p] => None,
                Parent::Image(p) => Some(&set.images[*p].id),
                _ => None,
            });
            // What only the target still has lies between it and what the source has.
            let only_there = own.attached.filter(|_| own.onto.is_none()).map(|at| index.at(at).id.clone());
            let parent = only_there.or_else(|| Some(index.target_path(&place, at_source?))).filter(|_| acts);
            let merged = own.merged;
            if let Some(Incomplete::Another(ancestor)) = own.incomplete {
                self.another.0 += 1;
                self.another.1.get_or_insert_with(|| (image.id.clone(), ancestor.clone()));
            }
            nearest[i] = if acts { self.steps.len() as u32 } else { below };
            let merge = own.merge.as_ref().filter(|_| acts).map(|m| m.step(index));
            let mut step = step(image.id.clone(), name.clone(), Some(image.format), own);
            step.merge = merge;
            if acts && below != FREE {
                step.after = vec![below as usize];
                awaited.push(below as usize);
            }
            if acts {
                (step.parent, step.merged) = (parent, merged);
                step.group = group.as_ref().filter(|g| g.members[i]).map(|g| g.number);
            }
            self.steps.push(step);
        }
        awaited.sort_unstable();
        let mut tips: Vec<usize> = (first..self.steps.len())
            .filter(|&s| !self.steps[s].files.is_empty() && awaited.binary_search(&s).is_err())
            .collect();
        for file in &set.set_files {
            let files = std::slice::from_ref(file);
            let mut own = decide::look(index, &place, files, None, near);
            if own.fate == Fate::Act
                && let Some(reason) = waits::files_cannot(index, &own)
            {
                own.fate = Fate::Held;
                own.files.clear();
                own.reason = reason;
            }
            let acts = own.fate == Fate::Act;
            let mut step = step(file.path.clone(), name.clone(), Some(set.format), own);
            if acts {
                step.after = std::mem::take(&mut tips);
                tips.push(self.steps.len());
            }
            self.steps.push(step);
        }
        tips
    }

    /// An image that stays, and whose record does not say what it builds on, builds on what the source says where that
    /// stays too: both were found to be the source's.
    fn link(&mut self, index: &Index<'_>, set: &ImageSet, decided: &DecidedSet<'_>) {
        for (image, own) in set.images.iter().zip(&decided.images) {
            if let Parent::Image(p) = image.parent
                && own.fate == Fate::Keep
                && decided.images[p].fate == Fate::Keep
                && !no_image(&decided.images[p])
                && let Some(there) = index.target_file(own.anchor, &decided.place)
                && there.recorded.as_ref().is_some_and(|r| r.parent.is_none())
                && let Some(parent) = index.target_file(decided.images[p].anchor, &decided.place)
            {
                self.links.push((there.entry.path.clone(), parent.entry.path.clone()));
            }
        }
    }

    /// Which images of a set are published under one intent.
    fn group(&mut self, set: &ImageSet, images: &[Decided<'_>]) -> Option<Group> {
        // Whether a compared one will be replaced shows only then: what differs of a set is replaced together.
        let compared = |d: &Decided<'_>| d.compares() && d.waits.is_none();
        let replaces = |d: &Decided<'_>| d.fate == Fate::Act && (d.action == Action::Replace || compared(d));
        if !images.iter().any(replaces) {
            return None;
        }
        let mut members = vec![false; images.len()];
        let mut below = vec![false; images.len()];
        for i in (0..images.len()).rev() {
            let sends = images[i].fate == Fate::Act && images[i].action != Action::Skip;
            members[i] = replaces(&images[i]) || (sends && below[i]);
            let under = match set.images[i].parent {
                Parent::Image(p) => Some(p),
                Parent::None => None,
                // As in the order of steps: everything of the set that is older goes first.
                Parent::Missing(_) | Parent::Cycle => i.checked_sub(1),
            };
            if let Some(p) = under.filter(|_| members[i] || below[i]) {
                below[p] = true;
            }
        }
        let files: usize = members.iter().zip(images).filter(|(m, _)| **m).map(|(_, d)| d.files.len()).sum();
        if files < 2 {
            return None;
        }
        self.groups += 1;
        Some(Group { number: self.groups, members })
    }

    /// A file of its own: one that no format knows, copied because the user wants such files.
    pub fn other<'a>(&mut self, index: &Index<'a>, other: &'a Other, place: &TargetPath, near: &mut usize) {
        let options = index.input.options;
        let path = &other.file.path;
        let out = if !options.include_other {
            Some(Reason::NotRecognised(&other.reason))
        } else if options.policy.is_some() && index.baseline.images.contains(path) {
            Some(Reason::ImageBeforeBaseline)
        } else {
            index.filter.image(path, None).map(Reason::Filtered)
        };
        let mut own = decide::look(index, place, std::slice::from_ref(&other.file), out, near);
        // What was an image and is none any more replaces nothing, whatever else is to be copied.
        let none = Reason::NotAnImage { file: path, why: "it does not begin as one any more" };
        if own.fate == Fate::Act && own.visible() && index.was_image(own.anchor, place) && !own.compares() {
            own.fate = Fate::Keep;
            own.action = Action::Skip;
            own.files.clear();
            own.reason = none;
        } else if own.fate == Fate::Act && own.compares() && index.was_image(own.anchor, place) {
            own.waits = Some(none);
        } else if own.fate == Fate::Act
            && let Some(reason) = waits::files_cannot(index, &own)
        {
            own.fate = Fate::Held;
            own.files.clear();
            own.reason = reason;
        }
        self.steps.push(step(path.clone(), Arc::from(""), None, own));
    }

    /// Moves the deletions that make room before everything else.
    pub fn deletions_first(&mut self) {
        let (first, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.steps)
            .into_iter()
            .enumerate()
            .partition(|(_, step)| step.code == Code::DeleteFirst);
        let mut place = vec![0; first.len() + rest.len()];
        for (now, (before, _)) in first.iter().chain(&rest).enumerate() {
            place[*before] = now;
        }
        for (_, mut step) in first.into_iter().chain(rest) {
            step.after.iter_mut().chain(&mut step.proof).for_each(|other| *other = place[*other]);
            self.steps.push(step);
        }
    }

    pub fn skip(&mut self, image: &TargetPath, set: Arc<str>, format: Option<Format>, reason: &Reason<'_>) {
        self.steps.push(Step {
            action: Action::Skip,
            image: image.clone(),
            set,
            format,
            bytes: 0,
            code: reason.code(),
            reason: reason.text(),
            files: Vec::new(),
            after: Vec::new(),
            not_restorable: false,
            span: None,
            group: None,
            merge: None,
            proof: None,
            parent: None,
            merged: false,
            compare_only: None,
        });
    }
}

/// Whether the source's file is no image, though its name says so.
fn no_image(own: &Decided<'_>) -> bool {
    matches!(own.reason, Reason::NotAnImage { .. })
}

struct Group {
    number: u32,
    members: Vec<bool>,
}

fn step(image: TargetPath, set: Arc<str>, format: Option<Format>, own: Decided<'_>) -> Step {
    let sends = |f: &&super::FileStep| matches!(f.action, FileAction::Copy | FileAction::Replace);
    let acts = own.fate == Fate::Act;
    let reason = match &own.incomplete {
        Some(incomplete)
            if (acts && own.action != Action::Skip)
                || matches!(incomplete, Incomplete::Another(_) | Incomplete::Elsewhere(_)) =>
        {
            Cow::Owned(own.reason.text().into_owned() + &incomplete.text())
        }
        _ => match own.doubt.filter(|_| acts && own.action != Action::Skip) {
            Some(by) => Cow::Owned(format!(
                "{}; restorable if the target's '{}' is a genuine consolidation (unproven)",
                own.reason.text(),
                by.display()
            )),
            None => match own.waits.as_ref().filter(|_| acts) {
                Some(why) => {
                    Cow::Owned(format!("{}; what differs stays for now: {}", own.reason.text(), why.text()))
                }
                None => own.reason.text(),
            },
        },
    };
    Step {
        action: if acts { own.action } else { Action::Skip },
        image,
        set,
        format,
        bytes: own.files.iter().filter(sends).map(|f| f.bytes).sum(),
        code: own.reason.code(),
        reason,
        files: if acts { own.files } else { Vec::new() },
        after: Vec::new(),
        not_restorable: own.incomplete.is_some() && matches!(own.fate, Fate::Act | Fate::Keep),
        span: own.span,
        group: None,
        merge: None,
        proof: None,
        parent: None,
        merged: false,
        compare_only: own.waits.filter(|_| acts).map(|why| why.text().into_owned()),
    }
}
