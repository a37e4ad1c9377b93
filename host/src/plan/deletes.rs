//! What the target has and the source has not: kept, protected, or (sync) deleted.
//!
//! Judged on what will be visible after the copies: an image that stays needs its parent, the parent it will have after
//! a replacement included. Descendants are judged, and deleted, before their ancestors.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use offsite_plugin_api::TargetPath;

use super::doomed::{Doomed, Fates, Order, Why};
use super::explain::Reason;
use super::index::{At, Index, place_of_anchor, source_path};
use super::needs::{Needs, Remains};
use super::order::Steps;
use super::succession::{Succession, Successors};
use super::sync::Class;
use super::{FileAction, FileStep, Notice, NoticeCode, sync};
use crate::chain::{Evidence, Image, Parent};
use crate::format::{self, Format, Role};
use crate::target::TargetFile;

pub(crate) struct Deletes<'a> {
    unmatched: Vec<&'a TargetPath>,
    forbidden: Option<Reason<'a>>,
    /// What the images that stay need.
    pub needs: Needs<'a>,
    /// What takes the place of sets that are gone.
    pub succession: Succession<'a>,
}

/// How a set of the target stands in which something is gone at the source.
struct Standing<'a> {
    /// Nothing of it may go now.
    kept: Option<Reason<'a>>,
    why: Why<'a>,
    /// Deletions come after these steps, and after those of the set itself.
    after: Vec<usize>,
    /// Of its images' deletions.
    doomed: Vec<usize>,
}

impl<'a> Deletes<'a> {
    pub fn new(index: &Index<'a>) -> Self {
        let unmatched = index.unmatched();
        let forbidden = if unmatched.is_empty() { None } else { sync::forbidden(index) };
        Self { unmatched, forbidden, needs: Needs::default(), succession: Succession::default() }
    }

    /// Whether `needs` and `succession` must learn of every set.
    pub fn looks(&self) -> bool {
        !self.unmatched.is_empty()
    }

    /// Adds the steps: first what is kept and why, then the deletions. Answers what is to be remembered.
    pub fn finish(
        mut self,
        index: &Index<'a>,
        steps: &mut Steps,
        notices: &mut Vec<Notice>,
    ) -> super::Remember {
        let mut remember = super::Remember { dropped: self.dropped(index), ..Default::default() };
        if self.unmatched.is_empty() {
            return remember;
        }
        let mut doomed: Vec<Doomed<'a>> = Vec::new();
        let owners = self.owners(index);
        let mut sets: Vec<u32> = owners.values().map(|at| at.0).collect();
        sets.sort_unstable();
        sets.dedup();
        let here: HashSet<&str> = index.input.source.sets.iter().map(|set| set.id.as_str()).collect();
        let vanished: Vec<u32> =
            sets.iter().copied().filter(|set| self.vanished(index, *set, &here)).collect();
        if self.forbidden.is_none() && !vanished.is_empty() {
            self.succession.look(index, &vanished);
        }
        let mut standings = HashMap::new();
        for set in sets {
            let standing = self.standing(index, set, vanished.binary_search(&set).is_ok());
            standings.insert(set, self.set(index, set, standing, steps, &mut doomed));
        }
        self.files(index, &owners, &vanished, &standings, steps, &mut doomed);
        if let Some(reason @ Reason::EmptySource) = &self.forbidden {
            let text = format!("nothing is deleted; images are {}", reason.text());
            notices.push(Notice::new(NoticeCode::DeletesHeld, text));
        }
        if !doomed.is_empty() {
            Fates::new(index, &self.succession, &self.unmatched, doomed).finish(
                steps,
                notices,
                &mut remember,
            );
        }
        remember
    }

    /// What was remembered of paths that can be deleted no more.
    fn dropped(&self, index: &Index<'a>) -> Vec<TargetPath> {
        let gone = |path: &TargetPath| {
            let recorded = index.input.target.files.get(path).and_then(|f| f.recorded.as_ref());
            self.is_unmatched(path) && recorded.is_some_and(|r| !index.unsettled.contains_key(&r.image))
        };
        index.input.target.deletes.paths().into_iter().filter(|path| !gone(path)).cloned().collect()
    }

    /// Whether nothing of a set is at the source, finished or not. `here`: the names of the source's sets.
    fn vanished(&self, index: &Index<'a>, set: u32, here: &HashSet<&str>) -> bool {
        let images = &index.input.target.chains().sets[set as usize].images;
        !self.matched(set)
            && images.iter().all(|i| {
                let recorded = index.input.target.files.get(&i.id).and_then(|f| f.recorded.as_ref());
                self.is_unmatched(&i.id)
                    && recorded.is_none_or(|r| {
                        // Images whose parent the source has no more are a set named after that.
                        let orphans = || i.format == Format::Qcow2 && here.contains(&*format::show(&r.image));
                        !here.contains(r.set.as_str())
                            && !orphans()
                            && !index.unsettled.contains_key(&r.image)
                    })
            })
    }

    /// Whether any of a set's images is at the source.
    fn matched(&self, set: u32) -> bool {
        self.needs.get(set).is_some_and(|r| r.matched.contains(&true))
    }

    /// How a set stands as a whole.
    fn standing(&self, index: &Index<'a>, s: u32, vanished: bool) -> Standing<'a> {
        let set = &index.input.target.chains().sets[s as usize];
        let stand = |kept, why, after| Standing { kept, why, after, doomed: Vec::new() };
        let sources: Vec<TargetPath> = set.images.iter().map(|i| source_path(index, i)).collect();
        if let Some(reason) = index.hidden(set.format, sources.iter()) {
            return stand(Some(reason), Why::Gone, Vec::new());
        }
        let recorded = set.images.iter().find_map(|i| index.input.target.files.get(&i.id)?.recorded.as_ref());
        let name = recorded.and_then(|r| r.recognised.as_ref()).map(|r| r.set.as_str());
        let unfinished = sources.iter().find_map(|path| index.unfinished_of(set.format, name, path));
        if let Some(path) = unfinished {
            return stand(Some(Reason::OwnUnfinished(path)), Why::Gone, Vec::new());
        }
        if let Some(path) = self.needs.get(s).and_then(|r| r.waits) {
            return stand(Some(Reason::OwnWaits(path)), Why::Gone, Vec::new());
        }
        if !vanished {
            // What is new of it at the source builds on what only the target has.
            let grows = !self.matched(s) && !sources.iter().any(|path| index.unsettled.contains_key(path));
            return stand(grows.then_some(Reason::Needed), Why::Gone, Vec::new());
        }
        // Retention takes a set away file by file: one that is half gone twice is judged when all of it is.
        let seen_once = |(image, source): (&Image, &TargetPath)| {
            let recorded = index.input.target.files.get(&image.id).is_some_and(|f| f.recorded.is_some());
            recorded && !sync::twice_absent(index, source)
        };
        if set.images.iter().zip(&sources).any(seen_once) {
            return stand(Some(Reason::NotTwiceAbsent), Why::Gone, Vec::new());
        }
        let successors = self.succession.of(index, s);
        let first = index.input.options.delete_first != super::DeleteFirst::No;
        match successors {
            Successors { begun: Some(by), whole, .. } if first => {
                // Whether it may go first shows when all is judged; else it goes as any other does.
                let later = whole.map(|(_, tips)| tips);
                stand(
                    None,
                    Why::Rotated { by, order: Order::BeforeItsTime, whole: later.is_some() },
                    later.unwrap_or_default(),
                )
            }
            Successors { whole: Some((by, after)), .. } => {
                stand(None, Why::Rotated { by, order: Order::After, whole: true }, after)
            }
            Successors { newer: Some(by), .. } => {
                stand(Some(Reason::SuccessorNotYet { by }), Why::Gone, Vec::new())
            }
            _ => stand(None, Why::Gone, Vec::new()),
        }
    }

    fn is_unmatched(&self, path: &TargetPath) -> bool {
        self.unmatched.binary_search_by(|p| (*p).cmp(path)).is_ok()
    }

    /// For every unmatched file that belongs to an image of the target: which.
    fn owners(&self, index: &Index<'a>) -> HashMap<&'a TargetPath, At> {
        let unmatched: HashSet<_> = self.unmatched.iter().copied().collect();
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
    fn set(
        &mut self,
        index: &Index<'a>,
        s: u32,
        mut standing: Standing<'a>,
        steps: &mut Steps,
        doomed: &mut Vec<Doomed<'a>>,
    ) -> Standing<'a> {
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
        // By image: the deletions of what builds on it.
        let mut above: HashMap<usize, Vec<usize>> = HashMap::new();
        // The last deletion of an image whose own parent nobody knows (merged before anybody saw it, perhaps): what is below
        // it in the set may be it, such an image, too.
        let mut last_orphan: Option<usize> = None;
        let mut orphan_stays = false;
        for (i, image) in set.images.iter().enumerate().rev() {
            let orphan = matches!(image.parent, Parent::Missing(_) | Parent::Cycle) && image.number.is_some();
            if remains.matched[i] || !unmatched(&image.id) {
                orphan_stays |= orphan;
                continue;
            }
            remains.needed[i] |= orphan_stays;
            let source = source_path(index, image);
            if index.unsettled.contains_key(&source) {
                // It exists: it is being written. Its own skip says so.
                remains.keep_parent(image);
                continue;
            }
            match self.judge(index, image, i, &remains, &source, &standing) {
                Some(reason) => {
                    remains.keep_parent(image);
                    orphan_stays |= orphan;
                    if image.span.is_some_and(|s| s.first < s.last) && image.evidence != Some(Evidence::Name)
                    {
                        remains.spans.extend(image.span.map(|s| (&image.id, s.last)));
                    }
                    steps.skip(&source, name.clone(), Some(image.format), &reason);
                }
                None => {
                    let mut children = above.remove(&i).unwrap_or_default();
                    children.reverse();
                    children.extend(last_orphan);
                    last_orphan = if orphan { Some(doomed.len()) } else { last_orphan };
                    if let Parent::Image(p) = image.parent {
                        above.entry(p).or_default().push(doomed.len());
                    }
                    standing.doomed.push(doomed.len());
                    let absorbed = remains.absorbed.get(&i).copied();
                    doomed.push(Doomed {
                        why: absorbed.map_or_else(
                            || standing.why.clone(),
                            |h| Why::Absorbed { by: h.by, verified: h.verified },
                        ),
                        class: Class::Image,
                        of: Some(s),
                        target: image.id.clone(),
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
                        after: [remains.tips.as_slice(), &standing.after].concat(),
                        children,
                    });
                }
            }
        }
        self.needs.put(s, remains);
        standing
    }

    /// Why an image that the source no longer has is kept; `None`: it is deleted.
    fn judge(
        &self,
        index: &Index<'a>,
        image: &'a Image,
        i: usize,
        remains: &Remains<'a>,
        source: &TargetPath,
        standing: &Standing<'a>,
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
            if let Some(dir) = index.hides(&path) {
                return Some(Reason::Unreadable(dir));
            }
            if let Some(reason) = sync::not_absent(index, &path) {
                return Some(reason);
            }
        }
        if let Some(reason) = &standing.kept {
            return Some(reason.clone());
        }
        if let Some(image) = remains.holds.get(&i) {
            return Some(Reason::Holds { image });
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
        vanished: &[u32],
        standings: &HashMap<u32, Standing<'a>>,
        steps: &mut Steps,
        doomed: &mut Vec<Doomed<'a>>,
    ) {
        let sets = &index.input.target.chains().sets;
        // Files of whole sets of which nothing is at the source.
        let of_sets: HashMap<&TargetPath, u32> = vanished
            .iter()
            .flat_map(|&set| sets[set as usize].set_files.iter().map(move |file| (&file.path, set)))
            .collect();
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
            let of_set = of_sets.get(path).copied();
            let standing = of_set.and_then(|set| standings.get(&set));
            let whole = of_set.map_or(0, |set| sets[set as usize].images.len());
            let reason = if let Some(reason) = &self.forbidden {
                Some(reason.clone())
            } else if let Some(reason) = not_clear(index, path, Some(recorded.set.as_str())) {
                Some(reason)
            } else if let Some(dir) = index.hides(&source) {
                Some(Reason::Unreadable(dir))
            } else if let Some(reason) = sync::not_absent(index, &source) {
                Some(reason)
            } else if remains.is_some_and(|(r, i)| r.held[i] || !r.matched[i]) {
                Some(Reason::ImageHeld)
            } else if owner.is_some_and(|at| is_part(index.at(at), path))
                && remains.is_some_and(|(r, i)| !r.replaced[i])
            {
                // Whatever became of the source's: the image that stays cannot be read without it.
                Some(Reason::Needed)
            } else if let Some(reason) = standing.and_then(|s| s.kept.as_ref()) {
                Some(reason.clone())
            } else if standing.is_some_and(|s| s.doomed.len() < whole) {
                // It describes images that stay.
                Some(Reason::Needed)
            } else {
                file_kept(index, file, false)
            };
            let set: Arc<str> = recorded.set.as_str().into();
            let class = match sync::class(path, file) {
                Class::Beside if remains.is_some_and(|(r, i)| !r.replaced[i]) => Class::Alone,
                class => class,
            };
            match reason {
                Some(reason) => steps.skip(&source, set, None, &reason),
                None => doomed.push(Doomed {
                    why: standing.map_or(Why::Gone, |s| s.why.clone()),
                    class,
                    of: of_set,
                    target: path.clone(),
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
                    children: standing.map(|s| s.doomed.clone()).unwrap_or_default(),
                }),
            }
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
    set.and_then(|set| index.unknown_of(set)).map(Reason::UnlistedSet)
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
