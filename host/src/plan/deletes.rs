//! What the target has and the source has not: kept, protected, or (sync) deleted.
//!
//! Judged on what will be visible after the copies: an image that stays needs its parent, the parent it will have after
//! a replacement included. Descendants are judged, and deleted, before their ancestors.

use std::collections::HashMap;
use std::sync::Arc;

use offsite_plugin_api::TargetPath;

use super::explain::Reason;
use super::index::{At, Index, place_of_anchor};
use super::needs::{Needs, Remains};
use super::order::Steps;
use super::{Action, FileAction, FileStep, Notice, NoticeCode, Step, sync};
use crate::chain::{Evidence, Image, Parent};
use crate::format::{Format, Role};
use crate::target::TargetFile;

pub(crate) struct Deletes<'a> {
    unmatched: Vec<&'a TargetPath>,
    forbidden: Option<Reason<'a>>,
    /// What the images that stay need.
    pub needs: Needs<'a>,
}

impl<'a> Deletes<'a> {
    pub fn new(index: &Index<'a>) -> Self {
        let unmatched = index.unmatched();
        if unmatched.is_empty() {
            return Self { unmatched, forbidden: None, needs: Needs::default() };
        }
        let forbidden = sync::forbidden(index, &unmatched);
        Self { unmatched, forbidden, needs: Needs::default() }
    }

    /// Whether `needs` must learn of every set.
    pub fn looks(&self) -> bool {
        !self.unmatched.is_empty()
    }

    /// Adds the steps: first what is kept and why, then the deletions.
    pub fn finish(mut self, index: &Index<'a>, steps: &mut Steps, notices: &mut Vec<Notice>) {
        if self.unmatched.is_empty() {
            return;
        }
        let mut doomed: Vec<Doomed<'a>> = Vec::new();
        let owners = self.owners(index);
        let mut sets: Vec<u32> = owners.values().map(|at| at.0).collect();
        sets.sort_unstable();
        sets.dedup();
        for set in sets {
            self.set(index, set, steps, &mut doomed);
        }
        self.files(index, &owners, steps, &mut doomed);
        if doomed.is_empty() {
            return self.say_forbidden(notices);
        }
        let managed = managed(index);
        let counted = doomed.iter().filter(|d| d.counts).count();
        if sync::over_limit(index, counted, managed) {
            for doomed in &doomed {
                steps.skip(&doomed.image, doomed.set.clone(), doomed.format, &Reason::OverDeleteLimit);
            }
            let text = format!(
                "{counted} of {managed} images would be deleted, max_delete allows {}: nothing is deleted; \
                 if this is meant, run once with --allow-deletes",
                (index.input.options.max_delete * managed as f64).floor()
            );
            notices.push(Notice::new(NoticeCode::OverDeleteLimit, text));
            return;
        }
        let first = steps.steps.len();
        let merges = steps.steps.iter().enumerate().filter(|(_, s)| s.merge.is_some());
        let merges: HashMap<TargetPath, usize> = merges.map(|(at, s)| (s.image.clone(), at)).collect();
        for doomed in doomed {
            let proof = doomed.proof.as_ref().and_then(|by| merges.get(by).copied());
            steps.steps.push(doomed.step(first, proof));
        }
    }

    fn is_unmatched(&self, path: &TargetPath) -> bool {
        self.unmatched.binary_search_by(|p| (*p).cmp(path)).is_ok()
    }

    fn say_forbidden(&self, notices: &mut Vec<Notice>) {
        if let Some(reason @ (Reason::EmptySource | Reason::NothingLeft)) = &self.forbidden {
            let text = format!("nothing is deleted; images are {}", reason.text());
            notices.push(Notice::new(NoticeCode::DeletesHeld, text));
        }
    }

    /// For every unmatched file that belongs to an image of the target: which.
    fn owners(&self, index: &Index<'a>) -> HashMap<&'a TargetPath, At> {
        let unmatched: std::collections::HashSet<_> = self.unmatched.iter().copied().collect();
        let mut owners = HashMap::new();
        for (s, set) in index.input.target.chains().sets.iter().enumerate() {
            for (i, image) in set.images.iter().enumerate() {
                for file in &image.files {
                    if let Some(path) = unmatched.get(&file.path) {
                        owners.insert(*path, (s as u32, i as u32));
                    }
                }
            }
        }
        owners
    }

    /// Judges the images of one of the target's sets that the source has not, descendants first.
    fn set(&mut self, index: &Index<'a>, s: u32, steps: &mut Steps, doomed: &mut Vec<Doomed<'a>>) {
        let mut remains = self.needs.take(index, s);
        let set = &index.input.target.chains().sets[s as usize];
        let name: Arc<str> = set.id.as_str().into();
        let unmatched = |path: &TargetPath| self.is_unmatched(path);
        // Images that the source has under no image's name (a filter of formats, another assembly) stay as they are.
        for (i, image) in set.images.iter().enumerate() {
            if !remains.matched[i] && !unmatched(&image.id) {
                remains.keep_parent(image);
            }
        }
        let mut deleting: HashMap<usize, usize> = HashMap::new();
        for (i, image) in set.images.iter().enumerate().rev() {
            if remains.matched[i] || !unmatched(&image.id) {
                continue;
            }
            let source = source_path(index, image);
            if index.unsettled.contains_key(&source) {
                // It exists: it is being written. Its own skip says so.
                remains.keep_parent(image);
                continue;
            }
            match self.judge(index, image, i, &remains, &source) {
                Some(reason) => {
                    remains.keep_parent(image);
                    if image.span.is_some_and(|s| s.first < s.last) && image.evidence != Some(Evidence::Name)
                    {
                        remains.spans.extend(image.span.map(|s| (&image.id, s.last)));
                    }
                    steps.skip(&source, name.clone(), Some(image.format), &reason);
                }
                None => {
                    let children = set
                        .images
                        .iter()
                        .enumerate()
                        .filter(|(_, c)| c.parent == Parent::Image(i))
                        .filter_map(|(c, _)| deleting.get(&c).copied())
                        .collect();
                    deleting.insert(i, doomed.len());
                    let absorbed = remains.absorbed.get(&i).copied();
                    doomed.push(Doomed {
                        reason: absorbed.map_or(Reason::GoneAtSource, |h| Reason::Absorbed { by: h.by }),
                        counts: absorbed.is_none_or(|h| !h.verified),
                        proof: absorbed.filter(|h| h.conditional).map(|h| h.by.clone()),
                        set: name.clone(),
                        format: Some(image.format),
                        files: image
                            .files
                            .iter()
                            .rev()
                            .filter(|f| unmatched(&f.path))
                            .map(|f| file_step(&f.path, &source, image, f.size))
                            .collect(),
                        image: source,
                        after: remains.tips.clone(),
                        children,
                    });
                }
            }
        }
        self.needs.put(s, remains);
    }

    /// Why an image that the source no longer has is kept; `None`: it is deleted.
    fn judge(
        &self,
        index: &Index<'a>,
        image: &'a Image,
        i: usize,
        remains: &Remains<'a>,
        source: &TargetPath,
    ) -> Option<Reason<'a>> {
        let listed = &index.input.target.files;
        let anchor = listed.get(&image.id);
        if anchor.is_none_or(|f| f.recorded.is_none()) {
            return Some(Reason::KeptForeign);
        }
        if let Some(reason) = &self.forbidden {
            return Some(reason.clone());
        }
        let recorded = anchor.and_then(|f| f.recorded.as_ref());
        if let Some(reason) = not_clear(index, &image.id, recorded.map(|r| r.set.as_str())) {
            return Some(reason);
        }
        let accepted = !image.unproven
            || index.input.options.accept_unproven
            || index.input.target.accepted.contains(&image.id);
        let merged = image.span.is_some_and(|s| s.first < s.last) && image.evidence.is_some() && accepted;
        // A side-car may outlive its image at the source: it is a file of its own then, and stays.
        let gone = || image.files.iter().filter(|f| self.is_unmatched(&f.path));
        for file in gone().filter_map(|f| listed.get(&f.path)) {
            if let Some(reason) = file_kept(index, file, merged) {
                return Some(reason);
            }
        }
        for file in gone() {
            let path = step_path(&file.path, source, image);
            if let Some(reason) = sync::not_absent(index, &path) {
                return Some(reason);
            }
        }
        if let Some(by) = remains.unproven.get(&i) {
            return Some(Reason::MergeUnproven { by });
        }
        if remains.needed[i] {
            return Some(Reason::Needed);
        }
        let number = image.number?;
        let above = remains.spans.iter().find(|(_, last)| number < *last);
        above.map(|(by, _)| Reason::BelowSpan { by })
    }

    /// Judges single files: those of images that stay, and those of no image.
    fn files(
        &self,
        index: &Index<'a>,
        owners: &HashMap<&'a TargetPath, At>,
        steps: &mut Steps,
        doomed: &mut Vec<Doomed<'a>>,
    ) {
        for &path in &self.unmatched {
            let Some(file) = index.input.target.files.get(path) else { continue };
            let Some(recorded) = &file.recorded else { continue };
            let owner = owners.get(path).copied();
            if let Some(at) = owner
                && (index.at(at).id == *path || self.is_unmatched(&index.at(at).id))
            {
                continue; // judged with its image
            }
            let source = single_source(path, file);
            if index.unsettled.contains_key(&source) {
                continue;
            }
            let remains = owner.and_then(|at| Some((self.needs.get(at.0)?, at.1 as usize)));
            let reason = if let Some(reason) = &self.forbidden {
                Some(reason.clone())
            } else if let Some(reason) = not_clear(index, path, Some(recorded.set.as_str())) {
                Some(reason)
            } else if let Some(reason) = sync::not_absent(index, &source) {
                Some(reason)
            } else if remains.is_some_and(|(r, i)| r.held[i] || !r.matched[i]) {
                Some(Reason::ImageHeld)
            } else if owner.is_some_and(|at| is_part(index.at(at), path))
                && remains.is_some_and(|(r, i)| !r.replaced[i])
            {
                // Whatever became of the source's: the image that stays cannot be read without it.
                Some(Reason::Needed)
            } else {
                file_kept(index, file, false)
            };
            let set: Arc<str> = recorded.set.as_str().into();
            match reason {
                Some(reason) => steps.skip(&source, set, None, &reason),
                None => doomed.push(Doomed {
                    reason: Reason::GoneAtSource,
                    counts: owner.is_none(),
                    proof: None,
                    set,
                    format: None,
                    files: vec![FileStep {
                        action: FileAction::Delete,
                        path: source.clone(),
                        target: path.clone(),
                        bytes: file.entry.size,
                    }],
                    image: source,
                    after: remains.map(|(r, _)| r.tips.clone()).unwrap_or_default(),
                    children: Vec::new(),
                }),
            }
        }
    }
}

/// An image (or a file) to be deleted, unless there are too many.
struct Doomed<'a> {
    reason: Reason<'a>,
    /// Against `max_delete`.
    counts: bool,
    /// The image of the source whose replacement must prove that it holds this one.
    proof: Option<TargetPath>,
    set: Arc<str>,
    format: Option<Format>,
    image: TargetPath,
    files: Vec<FileStep>,
    after: Vec<usize>,
    /// Deletions of its children, by position among the deletions.
    children: Vec<usize>,
}

impl Doomed<'_> {
    fn step(self, first: usize, proof: Option<usize>) -> Step {
        let mut after = self.after;
        after.extend(proof);
        after.extend(self.children.iter().map(|c| first + c));
        after.sort_unstable();
        after.dedup();
        Step {
            action: Action::Delete,
            image: self.image,
            set: self.set,
            format: self.format,
            bytes: self.files.iter().map(|f| f.bytes).sum(),
            code: self.reason.code(),
            reason: self.reason.text(),
            files: self.files,
            after,
            not_restorable: false,
            span: None,
            group: None,
            merge: None,
            proof,
            parent: None,
            merged: false,
        }
    }
}

/// What the target's own state forbids: deleting what an act that could not be settled is about, anything where a listing
/// leaves something out, and anything of a set of which it may have left something out.
fn not_clear<'a>(index: &Index<'a>, path: &TargetPath, set: Option<&str>) -> Option<Reason<'a>> {
    let target = index.input.target;
    if let Some(why) = index.stuck(Some(path), set) {
        return Some(Reason::Stuck(why));
    }
    if let Some(dir) = target.incomplete_above(path) {
        return Some(Reason::Unlisted(dir));
    }
    let other = target.unknown.iter().find(|(_, unknown)| set == Some(unknown.recorded.set.as_str()));
    other.map(|(path, _)| Reason::UnlistedSet(path))
}

fn is_part(image: &Image, path: &TargetPath) -> bool {
    image.files.iter().any(|f| f.path == *path && matches!(f.role, Role::Part(_)))
}

/// What forbids deleting this file; `merged`: it is a consolidated image of the target, whose files changed by that.
fn file_kept<'a>(index: &Index<'a>, file: &TargetFile, merged: bool) -> Option<Reason<'a>> {
    let now = i128::from(index.input.now_ns);
    if let Some(retention) = &file.entry.retention
        && i128::from(retention.until) * 1_000_000_000 > now
    {
        return Some(Reason::Retained { until: retention.until });
    }
    match &file.recorded {
        None if !merged => Some(Reason::KeptForeign),
        Some(recorded) if !merged && recorded.touched(&file.entry) => Some(Reason::TouchedGone),
        _ => None,
    }
}

/// The anchor's path at the source.
fn source_path(index: &Index<'_>, image: &Image) -> TargetPath {
    let recorded = index.input.target.files.get(&image.id).and_then(|f| f.recorded.as_ref());
    recorded.map_or_else(|| image.id.clone(), |r| r.image.clone())
}

/// Another file's path at the source, by where the anchor's is.
fn step_path(path: &TargetPath, source: &TargetPath, image: &Image) -> TargetPath {
    let Some(place) = place_of_anchor(&image.id, source).filter(|p| !p.is_root()) else {
        return if path == &image.id { source.clone() } else { path.clone() };
    };
    path.as_bytes()
        .strip_prefix(place.as_bytes())
        .and_then(|rest| rest.strip_prefix(b"/"))
        .and_then(|rest| TargetPath::new(rest).ok())
        .unwrap_or_else(|| path.clone())
}

/// The path at the source of a file that no image owns: its own record has its path as the image, or its image's.
fn single_source(path: &TargetPath, file: &TargetFile) -> TargetPath {
    match &file.recorded {
        Some(r) if place_of_anchor(path, &r.image).is_some() => r.image.clone(),
        _ => path.clone(),
    }
}

fn file_step(path: &TargetPath, source: &TargetPath, image: &Image, bytes: u64) -> FileStep {
    FileStep { action: FileAction::Delete, path: step_path(path, source, image), target: path.clone(), bytes }
}

/// Images (and single files) on the target that this job replicated.
fn managed(index: &Index<'_>) -> usize {
    let files = index.input.target.files.iter();
    files
        .filter(|(path, file)| {
            file.recorded.as_ref().is_some_and(|r| path.as_bytes().ends_with(r.image.as_bytes()))
        })
        .count()
}
