//! What a right replicator may never do, judged by the true contents alone: no code of the planner, the chain model or
//! the evidence is asked. One judge for each target; it looks after every change that a run makes there, and once more
//! when the run has ended.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use offsite_plugin_api::TargetPath;

use super::content::{Id, State, Truth, restorable};
use super::products::Family;
use super::source::SECOND;
use super::world::{Why, World};
use crate::plan::DeleteFirst;
use crate::target::names;
use crate::target::tests::mem::MemFile;

#[derive(Clone, Debug, Default)]
pub struct Judge {
    pub sync: bool,
    /// Something is left out by the user's own filter or policy.
    pub leaves_out: bool,
    pub max_delete: f64,
    /// The user allowed what is above the limits.
    pub allowed: bool,
    pub folds: bool,
    /// Seconds for which what could be deleted stays.
    pub delete_after: i64,
    pub delete_first: DeleteFirst,
    /// Others altered these since they were published.
    pub altered: BTreeSet<TargetPath>,
    /// Visible images that could be restored when it last looked.
    pub good: BTreeMap<TargetPath, Id>,
    pub visible: BTreeMap<TargetPath, Option<Id>>,
    /// Deletions of this run that count against the limit, and what they are measured by.
    pub counted: usize,
    pub managed: usize,
    /// Merges that others made there: what holds which states now.
    pub merged: Vec<(Id, Vec<State>)>,
    /// States that were ever there and could be restored.
    pub ever: HashSet<(bool, State)>,
    /// What is known of files by their serial number, which changes with every content.
    pub known: HashMap<u64, Option<Id>>,
}

/// What is on a target now.
pub struct Now {
    pub visible: BTreeMap<TargetPath, Option<Id>>,
    /// Contents that a swap moved aside.
    aside: Vec<Id>,
    /// Visible images that can be restored.
    pub good: BTreeMap<TargetPath, Id>,
}

fn capital(path: &TargetPath) -> bool {
    path.name().first().is_some_and(u8::is_ascii_uppercase)
}

type Files = BTreeMap<TargetPath, MemFile>;

impl World {
    fn look(&mut self, target: usize, files: &Files) -> Now {
        let mut visible = BTreeMap::new();
        let mut aside = Vec::new();
        let (library, known) = (&self.library, &mut self.judges[target].known);
        for (path, file) in files {
            let id = *known.entry(file.serial).or_insert_with(|| library.find(&file.bytes));
            match names::parse(path) {
                None => {
                    visible.insert(path.clone(), id);
                }
                Some(names::Own::Side { .. }) => aside.extend(id),
                Some(_) => {}
            }
        }
        let known: Vec<(&TargetPath, Id)> = visible.iter().filter_map(|(p, id)| Some((p, (*id)?))).collect();
        let mut good = BTreeMap::new();
        // Where case counts, another spelling is another host's: nothing of it is what an image here builds on.
        let folds = self.judges[target].folds;
        for spelling in if folds { vec![None] } else { vec![Some(true), Some(false)] } {
            let alike = known.iter().filter(|(p, _)| spelling.is_none_or(|upper| capital(p) == upper));
            let alike: Vec<&(&TargetPath, Id)> = alike.collect();
            let ids: Vec<Id> = alike.iter().map(|k| k.1).chain(aside.iter().copied()).collect();
            let whole = restorable(&self.library, &ids);
            let those = alike.iter().zip(whole).filter(|(_, whole)| *whole);
            good.extend(those.map(|((p, id), _)| ((*p).clone(), *id)));
        }
        Now { visible, aside, good }
    }

    /// Whether the source, with all of its file systems, could restore this content.
    fn whole_at_source(&self, id: Id) -> bool {
        let files = self.source.systems.iter().flat_map(|s| s.files.values());
        let ids: Vec<Id> = files.map(|f| f.content).collect();
        let whole = restorable(&self.library, &ids);
        ids.iter().zip(whole).any(|(other, whole)| *other == id && whole)
    }

    /// A run begins on that target.
    pub fn run_begins(&mut self, target: usize, files: &Files) {
        let now = self.look(target, files);
        let image = |id: &Id| self.library.truth(*id).is_some();
        // One that somebody overwrote is still one of them.
        let was = |path: &TargetPath| self.history.get(path).is_some_and(|ids| ids.iter().any(image));
        let managed =
            now.visible.iter().filter(|(path, id)| id.as_ref().is_some_and(image) || was(path)).count();
        let judge = &mut self.judges[target];
        judge.counted = 0;
        judge.managed = managed;
        (judge.good, judge.visible) = (now.good, now.visible);
    }

    /// The run changed something on that target.
    pub fn changed(&mut self, target: usize, files: &Files, what: &'static str, at: &TargetPath) {
        let own = names::parse(at);
        if matches!(what, "stage" | "discard")
            || matches!(own, Some(names::Own::Manifest | names::Own::Marker))
        {
            return; // nothing that is visible to others
        }
        let now = self.look(target, files);
        let (good, visible) = {
            let judge = &mut self.judges[target];
            (std::mem::take(&mut judge.good), std::mem::take(&mut judge.visible))
        };
        for (path, id) in &good {
            match now.visible.get(path).copied() {
                Some(Some(still)) if still == *id => {
                    if !now.good.contains_key(path) && !self.taken_away(target, *id) {
                        self.lost_ancestor(target, path, *id, what, at, &now);
                    }
                }
                Some(other) => self.replaced(path, *id, other),
                None if now.aside.contains(id) => {}
                None => self.gone(target, path, *id, &now),
            }
        }
        for (path, id) in &now.visible {
            if visible.get(path) != Some(id) {
                self.judges[target].altered.remove(path);
                self.published(target, path, *id, &now);
            }
        }
        let judge = &mut self.judges[target];
        // What a swap moved aside is judged when the swap is over.
        let aside = good.iter().filter(|(p, id)| !now.visible.contains_key(*p) && now.aside.contains(id));
        judge.good = aside.map(|(p, id)| (p.clone(), *id)).collect();
        judge.good.extend(now.good);
        let folds = judge.folds;
        let states = judge
            .good
            .iter()
            .filter_map(|(path, id)| Some((!folds && capital(path), self.library.truth(*id)?.gives)));
        judge.ever.extend(states);
        judge.visible = now.visible;
    }

    /// Law 1 for what was there before: nothing that is visible loses what it builds on.
    fn lost_ancestor(
        &mut self,
        target: usize,
        path: &TargetPath,
        id: Id,
        what: &str,
        at: &TargetPath,
        now: &Now,
    ) {
        let at_source = self.at_source(path) == Some(id) && self.whole_at_source(id);
        // The source itself put another chain under these names.
        if (what != "delete" || names::parse(at).is_some()) && !at_source {
            return;
        }
        if self.lacks_what_is_unclear(target, id, now) {
            return;
        }
        let text =
            format!("{} cannot be restored any more, by the {what} of {}", path.display(), at.display());
        self.breaks("a visible image loses its ancestor", text);
    }

    /// Whether others took away or changed, under its own name, what this image builds on: that the same content lies under
    /// another set's names is nothing that anybody knows.
    fn taken_away(&self, target: usize, id: Id) -> bool {
        let altered = &self.judges[target].altered;
        if altered.is_empty() {
            return false;
        }
        let altered: Vec<Truth> = altered
            .iter()
            .flat_map(|path| self.history_of(path))
            .filter_map(|id| self.library.truth(id))
            .collect();
        let mut needs = self.library.truth(id).and_then(|t| t.needs);
        while let Some(state) = needs {
            match altered.iter().find(|t| t.gives == state) {
                Some(_) => return true,
                None => needs = self.library.needs_of(state),
            }
        }
        false
    }

    /// Law 3: what takes a good image's place is what the source has.
    fn replaced(&mut self, path: &TargetPath, id: Id, now: Option<Id>) {
        let had = self.history_of(path);
        match now {
            Some(now) if had.contains(&now) => {
                // That other bytes are garbage nobody can see in a closed format.
                if self.library.size(now) == 0 && self.library.truth(id).is_some() {
                    let text = format!("{} was good, and is replaced by what is no image", path.display());
                    self.breaks("a good image is replaced by what is none", text);
                }
            }
            _ => {
                let text = format!("{} now holds what the source never had under that name", path.display());
                self.breaks("a good image is replaced by something else", text);
            }
        }
    }

    fn history_of(&self, path: &TargetPath) -> Vec<Id> {
        let same = |p: &TargetPath| p.as_bytes().eq_ignore_ascii_case(path.as_bytes());
        self.history.iter().filter(|(p, _)| same(p)).flat_map(|(_, ids)| ids.iter().copied()).collect()
    }

    /// Law 1 for what becomes visible: its ancestors are there, if the source has them.
    fn published(&mut self, target: usize, path: &TargetPath, id: Option<Id>, now: &Now) {
        let Some(id) = id else {
            return self.breaks(
                "an unfinished file is published",
                format!("{} holds no known content", path.display()),
            );
        };
        let judge = &self.judges[target];
        let excused = judge.leaves_out || !judge.altered.is_empty();
        if self.library.truth(id).is_some()
            && !now.good.contains_key(path)
            && !excused
            && self.whole_at_source(id)
        {
            let text = format!("{} becomes visible without what it builds on", path.display());
            self.breaks("an image is visible before its ancestors", text);
        }
    }

    /// A good image was deleted: rightly?
    fn gone(&mut self, target: usize, path: &TargetPath, id: Id, now: &Now) {
        let shown = path.display().into_owned();
        let judge = &self.judges[target];
        let (sync, allowed, folds) = (judge.sync, judge.allowed, judge.folds);
        let (managed, max_delete) = (judge.managed, judge.max_delete);
        let (delete_after, delete_first) = (judge.delete_after, judge.delete_first);
        let Some(truth) = self.library.truth(id) else { return };
        if !sync {
            return self.breaks("deleted without sync", shown);
        }
        let same = |p: &TargetPath| p == path || folds && p.as_bytes().eq_ignore_ascii_case(path.as_bytes());
        if let Some(there) = self.source.true_files().iter().find(|(p, _)| same(p)).map(|(p, _)| p.clone()) {
            let text = format!("{shown} is deleted, and the source has {}", there.display());
            return self.breaks("deleted what the source has", text);
        }
        // Where names are folded, an image that was renamed was removed under two of them.
        let removals = self.removed.iter().filter(|(p, _)| same(p)).map(|(_, r)| r);
        let removal = removals.max_by_key(|r| (r.content == id, r.at)).cloned();
        let Some(removal) = removal else {
            return self.breaks("deleted what the source never removed", shown);
        };
        if removal.looks < 2 {
            self.breaks("deleted before two scans missed it", shown.clone());
        }
        if self.now - removal.since < delete_after * SECOND {
            self.breaks("deleted before delete_after has passed", shown.clone());
        }
        let mut counts = true;
        if let Why::Absorbed(by) = removal.why
            && (self.source.true_files().iter().any(|(_, f)| f.content == by)
                || self.growing.values().any(|done| *done == by))
        {
            counts = false;
            if !now.good.values().any(|id| *id == by || removal.held.contains(id)) {
                let text = format!("{shown} was merged, and the image that holds it now is not there");
                self.breaks("deleted before what absorbed it is there", text);
            }
        }
        if self.seems_absorbed(target, now).contains(&removal.content) {
            counts = false;
        }
        let of = |id: &Id| self.library.truth(*id);
        let newer = |id: &Id| of(id).is_some_and(|t| t.machine == truth.machine && t.set > truth.set);
        let whole_set_gone =
            !self.source.true_files().iter().any(|(_, f)| of(&f.content).is_some_and(|t| t.set == truth.set));
        if whole_set_gone && now.good.values().any(newer) {
            counts = false;
        }
        // The declared exception: an old set makes room for one that the source has, but is not the last; unless the user gave
        // up that, too.
        let takes_its_place = || {
            let files = self.source.true_files();
            files.iter().any(|(_, f)| newer(&f.content) && self.whole_at_source(f.content))
        };
        let early = delete_first != DeleteFirst::No && whole_set_gone && takes_its_place();
        counts &= !early;
        let allowed_last = allowed || early && delete_first == DeleteFirst::Last;
        let left = now.good.values().any(|id| of(id).is_some_and(|t| t.machine == truth.machine));
        if !left && !allowed_last {
            let host = &self.machines[truth.machine].host;
            let text = format!("{shown} was the last image of {host} that could be restored");
            self.breaks("a host's last image is deleted", text);
        }
        if counts && !allowed {
            self.judges[target].counted += 1;
            let counted = self.judges[target].counted;
            if counted as f64 > max_delete * managed as f64 {
                let text = format!("{shown} is deletion {counted} of {managed} images");
                self.breaks("more is deleted than max_delete allows", text);
            }
        }
    }

    /// What is shown as restorable is.
    pub fn shown_restorable(&mut self, target: usize, files: &Files, shown: &[TargetPath]) {
        let now = self.look(target, files);
        for path in shown {
            let why = match now.visible.get(path) {
                None => "is not there",
                Some(None) => "holds what nobody wrote",
                Some(Some(id)) if self.library.truth(*id).is_none() => "is no image",
                Some(Some(id))
                    if !now.good.contains_key(path)
                        && !self.unknowable(target, path, *id, &now)
                        && !self.lacks_what_is_unclear(target, *id, &now) =>
                {
                    "lacks what it builds on"
                }
                _ => continue,
            };
            self.breaks("shown as restorable", format!("{} {why}", path.display()));
        }
    }

    /// Where only time orders a set, nobody can know of an image that was gone before the first run.
    fn unknowable(&self, target: usize, path: &TargetPath, id: Id, now: &Now) -> bool {
        let judge = &self.judges[target];
        // Of another spelling, where case counts, nothing is known here.
        let spelling = |path: &TargetPath| !judge.folds && capital(path);
        let alike = || now.visible.iter().filter(|(p, _)| spelling(p) == spelling(path));
        let mut at = self.library.truth(id);
        while let Some(truth) = at {
            let timed = matches!(self.machines[truth.machine].family, Family::Aip22 | Family::Veeam);
            let Some(needs) = truth.needs.filter(|_| timed) else { return false };
            let gives = |id: &Id| self.library.truth(*id).filter(|t| t.gives == needs);
            at = alike().filter_map(|(_, id)| id.as_ref()).find_map(gives);
            if at.is_none() {
                return !judge.ever.contains(&(spelling(path), needs));
            }
        }
        false
    }

    /// What looks like an image and is neither on the target nor told of.
    pub fn untold(&mut self, target: usize, files: &Files) -> Vec<TargetPath> {
        let now = self.look(target, files);
        let there = |p: &&TargetPath| self.source.true_file(p).is_some() && !now.visible.contains_key(*p);
        self.strange.iter().filter(there).cloned().collect()
    }

    /// Images that the target has as the source has them, and that cannot be restored there. What the source itself could
    /// not restore shows only where the run found nothing to do: what it sends may be anything until it is read.
    pub fn lacking(&mut self, target: usize, files: &Files, idle: bool) -> Vec<TargetPath> {
        let now = self.look(target, files);
        let mut lacking = Vec::new();
        for (path, file) in self.source.true_files() {
            if now.visible.get(&path) == Some(&Some(file.content))
                && self.library.truth(file.content).is_some()
                && !now.good.contains_key(&path)
                && !self.unknowable(target, &path, file.content, &now)
                && (idle || self.whole_at_source(file.content))
            {
                lacking.push(path);
            }
        }
        lacking
    }

    /// Images of the source that the target neither has nor holds in another one.
    pub fn missing(&mut self, target: usize, files: &Files) -> Vec<TargetPath> {
        let now = self.look(target, files);
        let mut given: BTreeSet<u32> =
            now.good.values().filter_map(|id| Some(self.library.truth(*id)?.gives)).collect();
        let held = self.judges[target].merged.iter().filter(|(by, _)| now.good.values().any(|id| id == by));
        given.extend(held.flat_map(|(_, states)| states.iter().copied()));
        let mut missing = Vec::new();
        for (path, file) in self.source.true_files() {
            let Some(truth) = self.library.truth(file.content) else { continue };
            // What was never seen, because it is not mounted since, is not known to be anywhere.
            let system = self.source.home(&path).0;
            if !self.source.is_mounted(system) && !self.source.systems[system].held {
                continue;
            }
            // What the source itself cannot restore may wait for ever.
            if !given.contains(&truth.gives) && self.whole_at_source(file.content) {
                missing.push(path);
            }
        }
        missing
    }

    /// Others' changes between two runs are theirs.
    pub fn others_changed(&mut self, target: usize, path: &TargetPath) {
        self.judges[target].altered.insert(path.clone());
    }
}
