//! What of the images and files that could be deleted goes in this run, and what is held.
//!
//! Rotation is ordinary and goes unattended. What would leave a lineage (a host's disk, a folder) without a restorable
//! image, or what is gone together with everything else, waits for the user, who allows exactly that. The rest is
//! counted against `max_delete`, images, other files, and what goes from beside an image that stays, each apart. `delete_after` lets all of it lie for a while. An image
//! that stays keeps its ancestors.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use offsite_plugin_api::TargetPath;

use super::explain::Reason;
use super::index::Index;
use super::order::Steps;
use super::succession::{self, Succession};
use super::sync::{self, Class, Managed};
use super::{Action, DeleteFirst, FileStep, Notice, NoticeCode, Remember, Step};
use crate::chain::Image;
use crate::format::{Format, Lineage};
use crate::report::{count, word};

/// Why it can be deleted.
#[derive(Clone, Debug)]
pub(crate) enum Why<'a> {
    /// Gone at the source, and nothing takes its place.
    Gone,
    /// The source's image holds it now; `verified`: header or name say so.
    Absorbed { by: &'a TargetPath, verified: bool },
    /// Its set is gone, and a newer one takes its place. `whole`: that one is published, verified and restorable once
    /// the steps are done that this deletion comes after.
    Rotated { by: &'a str, order: Order, whole: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// After what takes its place.
    After,
    /// Before every copy, to make room; what takes its place is there already.
    First,
    /// Likewise, but what takes its place is not there yet: the declared exception to law 3.
    BeforeItsTime,
}

/// An image (or a file) that could be deleted.
pub(crate) struct Doomed<'a> {
    pub why: Why<'a>,
    pub class: Class,
    /// The image of the source whose replacement must prove that it holds this one.
    pub proof: Option<TargetPath>,
    /// The target's set.
    pub of: Option<u32>,
    /// The anchor (or the file) on the target.
    pub target: TargetPath,
    pub set: Arc<str>,
    pub format: Option<Format>,
    /// At the source.
    pub image: TargetPath,
    pub files: Vec<FileStep>,
    pub after: Vec<usize>,
    /// What goes before it, by position among the doomed: its children, or all images of its set. They stand before it.
    pub children: Vec<usize>,
}

pub(crate) struct Fates<'i, 'a> {
    index: &'i Index<'a>,
    succession: &'i Succession<'a>,
    /// What the target lists and the source does not, sorted.
    unmatched: &'i [&'a TargetPath],
    managed: Managed,
    doomed: Vec<Doomed<'a>>,
    /// By position: why it stays after all.
    kept: Vec<Option<Reason<'a>>>,
    /// By position: the user allowed exactly this.
    allowed: Vec<bool>,
}

impl<'i, 'a> Fates<'i, 'a> {
    pub fn new(
        index: &'i Index<'a>,
        succession: &'i Succession<'a>,
        unmatched: &'i [&'a TargetPath],
        doomed: Vec<Doomed<'a>>,
    ) -> Self {
        let managed = sync::managed(index, unmatched);
        let kept = doomed.iter().map(|_| None).collect();
        let pending = &index.input.target.deletes;
        let allowed = doomed.iter().map(|d| {
            let recorded = index.input.target.files.get(&d.target).and_then(|f| f.recorded.as_ref());
            recorded.is_some_and(|r| pending.allows(&d.target, r))
        });
        let allowed = allowed.collect();
        Self { index, succession, unmatched, managed, doomed, kept, allowed }
    }

    /// Adds the steps, and says what was held.
    pub fn finish(mut self, steps: &mut Steps, notices: &mut Vec<Notice>, remember: &mut Remember) {
        self.go_first();
        self.hold_without_witness();
        self.hold_last();
        self.keep_ancestors();
        self.tell_held(notices, remember);
        self.wait(notices, remember);
        self.keep_ancestors();
        self.limit(notices);
        self.keep_ancestors();
        self.emit(steps, notices);
    }

    fn goes(&self, at: usize) -> bool {
        self.kept[at].is_none()
    }

    /// Which sets go before the copies: where the lineage keeps another restorable image on the target meanwhile, or the
    /// user gave up that, too. The others wait for their successor as ever.
    fn go_first(&mut self) {
        let options = self.index.input.options;
        let wants = |d: &Doomed<'_>| matches!(d.why, Why::Rotated { order: Order::BeforeItsTime, .. });
        if !self.doomed.iter().any(wants) {
            return;
        }
        let staying = self.staying(|of| of.family, false);
        for at in 0..self.doomed.len() {
            let Why::Rotated { by, order: Order::BeforeItsTime, whole } = self.doomed[at].why else {
                continue;
            };
            if whole && self.doomed[at].after.is_empty() {
                self.doomed[at].why = Why::Rotated { by, order: Order::First, whole };
                continue;
            }
            let family = self.doomed[at].of.map(|set| succession::of_target(self.index, set).family);
            let other = family.is_some_and(|family| staying.contains(&family));
            if other || options.delete_first == DeleteFirst::Last {
                self.doomed[at].after.clear();
                continue;
            }
            self.doomed[at].why = Why::Rotated { by, order: Order::After, whole };
            if !whole {
                self.kept[at] = Some(Reason::LastBeforeSuccessor { by });
            }
        }
    }

    /// Lineages (by `key`) that keep a restorable image on the target whatever of the doomed goes. `here`: one that the
    /// source has, too, counts although nothing but a name and a size proves it on the target.
    fn staying(&self, key: impl Fn(Lineage) -> String, here: bool) -> HashSet<String> {
        let target = self.index.input.target;
        let going: HashSet<&TargetPath> = self.doomed.iter().map(|d| &d.target).collect();
        let mut staying = HashSet::new();
        for (s, set) in (0..).zip(&target.chains().sets) {
            let stays = (0..).zip(&set.images).any(|(i, image)| {
                let recorded = target.files.get(&image.id).is_some_and(|f| f.recorded.is_some());
                let at_source =
                    || here && image.restorable && self.unmatched.binary_search(&&image.id).is_err();
                recorded
                    && !going.contains(&image.id)
                    && (succession::sound(self.index, (s, i)) || at_source())
            });
            if stays {
                staying.insert(key(succession::of_target(self.index, s)));
            }
        }
        staying
    }

    /// What is gone together with everything else of its kind may be another source. An old set whose successor comes
    /// with this run goes with the next one, which finds that here.
    fn hold_without_witness(&mut self) {
        let last = self.index.input.options.delete_first == DeleteFirst::Last;
        for at in 0..self.doomed.len() {
            let left = match self.doomed[at].class {
                Class::Image | Class::Beside | Class::Alone => self.managed.images_left,
                Class::Other => self.managed.others_left,
            };
            if left || self.allowed[at] || !self.goes(at) {
                continue;
            }
            self.kept[at] = match (&self.doomed[at].why, self.doomed[at].class) {
                (Why::Rotated { order: Order::BeforeItsTime, .. }, _) if last => None,
                (Why::Rotated { by, .. }, _) => Some(Reason::SuccessorNotYet { by: (*by).to_owned() }),
                (_, Class::Other) => Some(Reason::NoFileLeft),
                _ => Some(Reason::NothingLeft),
            };
        }
    }

    /// Holds what would leave a lineage without a restorable image. Where one comes with this run, it comes first.
    fn hold_last(&mut self) {
        let alone = |d: &Doomed<'_>| d.class == Class::Image && matches!(d.why, Why::Gone);
        if !self.doomed.iter().any(alone) {
            return;
        }
        let staying = self.staying(|of| of.own, true);
        let arriving = self.succession.arriving();
        let mut lineages: HashMap<u32, String> = HashMap::new();
        for at in 0..self.doomed.len() {
            let Some(set) = self.doomed[at].of.filter(|_| alone(&self.doomed[at])) else { continue };
            let own = lineages.entry(set).or_insert_with(|| succession::of_target(self.index, set).own);
            if staying.contains(own) {
                continue;
            }
            if let Some(tips) = arriving.get(own.as_str()) {
                self.doomed[at].after.extend_from_slice(tips);
            } else if !self.allowed[at] && self.goes(at) {
                self.kept[at] = Some(Reason::LastOfLineage);
            }
        }
    }

    /// What stays needs what it builds on.
    fn keep_ancestors(&mut self) {
        for at in 0..self.doomed.len() {
            let stays = self.doomed[at].children.iter().find_map(|c| self.kept[*c].as_ref());
            if let Some(reason) = stays.filter(|_| self.goes(at)) {
                // What waits only for the same as its child waits with it.
                let reason = match reason {
                    Reason::DeleteLater { .. } | Reason::OverDeleteLimit => reason.clone(),
                    _ => Reason::Needed,
                };
                self.kept[at] = Some(reason);
            }
        }
    }

    fn tell_held(&self, notices: &mut Vec<Notice>, remember: &mut Remember) {
        let which = |reason: &Reason<'_>| {
            let of = |at: &usize| self.kept[*at].as_ref() == Some(reason);
            (0..self.doomed.len()).filter(of).collect::<Vec<_>>()
        };
        let mut tell = |reason: Reason<'_>, (one_is, they_are): (&str, &str), because: &str| {
            let held = which(&reason);
            let Some(&one) = held.first() else { return };
            let number = held.len() as u64;
            let text = format!(
                "{number} {} gone at the source and held on this target, '{}' for one: {because}; if this is meant, \
                 'offsite target allow-deletes' shows {} and allows exactly {}",
                word(number, one_is, they_are),
                self.doomed[one].image.display(),
                word(number, "it", "them"),
                word(number, "that", "these")
            );
            notices.push(Notice::new(NoticeCode::DeletesHeld, text));
            remember.held.extend(held.into_iter().map(|at| self.doomed[at].target.clone()));
        };
        tell(
            Reason::NothingLeft,
            ("image (or file beside one) is", "images (or files beside them) are"),
            "no image on this target is at the source any more, which may be a wrong mount",
        );
        tell(
            Reason::NoFileLeft,
            ("other file is", "other files are"),
            "none of this target's other files is at the source any more, which may be a wrong mount",
        );
        tell(
            Reason::LastOfLineage,
            ("image is", "images are"),
            "otherwise a host's disk, or a folder, would have no restorable image here",
        );
        remember.held.sort();
    }

    /// Lets lie what could go, until `delete_after` is over since that was found.
    fn wait(&mut self, notices: &mut Vec<Notice>, remember: &mut Remember) {
        let wait = self.index.input.options.delete_after_ns;
        if wait <= 0 {
            return;
        }
        let now = self.index.input.now_ns;
        let found = &self.index.input.target.deletes.found;
        for at in 0..self.doomed.len() {
            if !self.goes(at) {
                continue;
            }
            let target = &self.doomed[at].target;
            // A clock that was set back must not make it wait for longer.
            let since = found.get(target).copied().unwrap_or(now).min(now);
            if !found.contains_key(target) {
                remember.found.push(target.clone());
            }
            let until = since.saturating_add(wait);
            if now < until {
                self.kept[at] = Some(Reason::DeleteLater { until: until / 1_000_000_000 });
            }
        }
        remember.found.sort();
        let later =
            self.kept.iter().filter(|kept| matches!(kept, Some(Reason::DeleteLater { .. }))).count() as u64;
        if later > 0 {
            let text = format!(
                "{later} {} gone at the source and kept until delete_after has passed",
                word(later, "image or file is", "images or files are")
            );
            notices.push(Notice::new(NoticeCode::DeletesLater, text));
        }
    }

    /// Sets whose place another one takes by time alone, where one scan found more of a family gone than stay of it. No
    /// retention takes so many at once: it keeps as many as it kept before. Another source, or a clock that was wrong, may.
    fn too_many_at_once(&self) -> HashSet<u32> {
        let (mut families, mut at_once): (HashMap<u32, String>, HashMap<_, HashSet<u32>>) =
            Default::default();
        for (at, doomed) in self.doomed.iter().enumerate() {
            let Some(set) = doomed.of.filter(|_| matches!(doomed.why, Why::Rotated { .. })) else { continue };
            let since = self.index.input.inventory.absent_since.get(&doomed.image);
            let of = succession::of_target(self.index, set);
            if doomed.class == Class::Image && self.goes(at) && of.place.is_none() {
                at_once.entry((of.family.clone(), since)).or_default().insert(set);
                families.insert(set, of.family);
            }
        }
        if families.is_empty() {
            return HashSet::new();
        }
        let mut staying = self.succession.whole_by_family();
        let unmatched = |image: &Image| self.unmatched.binary_search(&&image.id).is_ok();
        for (s, set) in (0..).zip(&self.index.input.target.chains().sets) {
            // What the source has, too, is counted there.
            if !families.contains_key(&s) && set.images.iter().all(unmatched) {
                *staying.entry(succession::of_target(self.index, s).family).or_default() += 1;
            }
        }
        let more =
            |family: &String, sets: &HashSet<u32>| sets.len() > staying.get(family).copied().unwrap_or(0);
        let too_many = at_once.into_iter().filter(|((family, _), sets)| more(family, sets));
        too_many.flat_map(|(_, sets)| sets).collect()
    }

    /// Nothing of a kind goes when more would go than the user wants unasked.
    fn limit(&mut self, notices: &mut Vec<Notice>) {
        let asked = self.too_many_at_once();
        for (class, managed, what) in [
            (Class::Image, self.managed.images, "image"),
            (Class::Other, self.managed.others, "other file"),
            (Class::Alone, self.managed.beside, "side-car"),
        ] {
            let counts = |at: &usize| {
                let doomed = &self.doomed[*at];
                let alone = match doomed.why {
                    Why::Gone => true,
                    Why::Absorbed { verified, .. } => !verified,
                    Why::Rotated { .. } => doomed.of.is_some_and(|set| asked.contains(&set)),
                };
                doomed.class == class && alone && !self.allowed[*at] && self.goes(*at)
            };
            let counted: Vec<usize> = (0..self.doomed.len()).filter(counts).collect();
            if !sync::over_limit(self.index, counted.len(), managed) {
                continue;
            }
            for &at in &counted {
                self.kept[at] = Some(Reason::OverDeleteLimit);
            }
            let text = format!(
                "{} of {} would be deleted, max_delete allows {}: none of them is deleted; if this is meant, run \
                 once with --allow-deletes",
                counted.len(),
                count(managed as u64, what),
                (self.index.input.options.max_delete * managed as f64).floor()
            );
            notices.push(Notice::new(NoticeCode::OverDeleteLimit, text));
        }
    }

    fn emit(self, steps: &mut Steps, notices: &mut Vec<Notice>) {
        let mut place = vec![None; self.doomed.len()];
        let merges = steps.steps.iter().enumerate().filter(|(_, s)| s.merge.is_some());
        let merges: HashMap<TargetPath, usize> = merges.map(|(at, s)| (s.image.clone(), at)).collect();
        let (mut example, mut early, mut moves) = (None, 0, false);
        for (doomed, kept) in self.doomed.iter().zip(&self.kept) {
            if let Some(reason) = kept {
                steps.skip(&doomed.image, doomed.set.clone(), doomed.format, reason);
            }
        }
        for (at, (doomed, kept)) in self.doomed.into_iter().zip(self.kept).enumerate() {
            if kept.is_some() {
                continue;
            }
            if let Why::Rotated { order: order @ (Order::First | Order::BeforeItsTime), .. } = doomed.why {
                moves = true;
                if order == Order::BeforeItsTime {
                    early += 1;
                    example.get_or_insert_with(|| doomed.image.clone());
                }
            }
            place[at] = Some(steps.steps.len());
            let before = doomed.children.iter().filter_map(|c| place[*c]).collect();
            let proof = doomed.proof.as_ref().and_then(|by| merges.get(by).copied());
            steps.steps.push(doomed.step(before, proof));
        }
        if let Some(example) = example {
            let text = format!(
                "{} of older sets, '{}' for one, {} deleted before what takes {} place is published, to make room \
                 (--delete-first): until then the target has fewer restore points",
                count(early, "image"),
                example.display(),
                word(early, "is", "are"),
                word(early, "its", "their")
            );
            notices.push(Notice::new(NoticeCode::DeleteFirst, text));
        }
        if moves {
            steps.deletions_first();
        }
    }
}

impl Doomed<'_> {
    /// `before`: the steps that delete its children.
    fn step(self, before: Vec<usize>, proof: Option<usize>) -> Step {
        let reason = match &self.why {
            Why::Gone => Reason::GoneAtSource,
            Why::Absorbed { by, .. } => Reason::Absorbed { by },
            Why::Rotated { by, order: Order::After, .. } => Reason::Rotated { by },
            Why::Rotated { by, order, .. } => {
                Reason::DeleteFirst { by, early: *order == Order::BeforeItsTime }
            }
        };
        let mut after = self.after;
        after.extend(before);
        after.extend(proof);
        after.sort_unstable();
        after.dedup();
        Step {
            action: Action::Delete,
            image: self.image,
            set: self.set,
            format: self.format,
            bytes: self.files.iter().map(|f| f.bytes).sum(),
            code: reason.code(),
            reason: reason.text(),
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
