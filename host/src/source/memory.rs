//! The observations while a scan runs: what was remembered, compared with what is found now, and what to remember.
//!
//! A file that is not found was deleted only where somebody could look: in a directory that was read, on the file system
//! that the file lay on. Everything else is in doubt, and a doubt is told (`doubts`); it deletes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use offsite_plugin_api::TargetPath;

use super::doubts::{Doubts, Places};
use super::drift::Drift;
use super::earlier::{self, Earlier, Missing};
use super::evidence::Evidence;
use super::ignore::Ignore;
use super::walk::{Facts, Walk};
use super::{Doubt, Learned, MountPoint, Observations, Place, RecordedFile, Seen, mounts};
use crate::error::Result;

/// How long an absence is remembered at least: 90 days.
const KEEP_NS: i64 = 90 * 24 * 3600 * 1_000_000_000;

/// A file found, with the time since when it looks like this, nanoseconds since the Unix epoch.
pub(super) type Observed = (TargetPath, Facts, i64, Opened);

/// What is remembered of having opened a file as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    Never,
    /// It can be opened, and there was nothing to be said of it.
    Plain,
    /// [`Memory::header`] says more.
    Told,
}

impl Opened {
    fn of(seen: &Seen) -> Self {
        match &seen.header {
            None => Self::Never,
            Some(header) if header.is_empty() => Self::Plain,
            Some(_) => Self::Told,
        }
    }
}

/// What a scan found beside the walk's own lists.
#[derive(Debug, Default)]
pub(super) struct Sight {
    pub files: Vec<Observed>,
    /// Absent paths with the time since when they are absent.
    pub absent: BTreeMap<TargetPath, i64>,
    pub doubts: Vec<Doubt>,
    /// What files were while something beside them was missing already.
    pub earlier: BTreeMap<TargetPath, Earlier>,
}

/// How a scan judges.
pub(super) struct Judge<'a> {
    /// When the walk ended, nanoseconds since the Unix epoch.
    pub now_ns: i64,
    pub settle_ns: i64,
    pub ignore: &'a Ignore,
    /// BLAKE3 of a file of the source as it is now.
    pub digest: &'a mut dyn FnMut(&TargetPath) -> Result<Option<[u8; 32]>>,
}

pub(super) struct Memory {
    pub place: Option<Place>,
    pub(super) mounts: Vec<MountPoint>,
    mounts_changed: bool,
    /// Sorted by path.
    pub(super) files: Vec<(TargetPath, Seen)>,
    /// Indices of `files` that the store does not hold like this.
    pub(super) changed: Vec<usize>,
    /// What targets' records say; filled when something must be proved by it.
    recorded: Option<Vec<RecordedFile>>,
}

impl Memory {
    pub fn load(observations: &mut dyn Observations) -> Result<Self> {
        let remembered = observations.load()?;
        let mut memory = Self {
            place: remembered.place,
            mounts: remembered.mounts,
            mounts_changed: false,
            files: remembered.files,
            changed: Vec::new(),
            recorded: None,
        };
        memory.mounts.sort_by(|a, b| a.path.cmp(&b.path));
        if memory.place.is_none() && memory.files.is_empty() {
            // A lost database: what targets hold is known to have been here.
            let recorded = observations.recorded();
            memory.files = recorded.iter().map(|file| (file.path.clone(), never(file))).collect();
            memory.recorded = Some(recorded);
        } else if memory.files.iter().any(|(_, seen)| seen.mount.is_none()) {
            memory.recorded = Some(observations.recorded());
        }
        memory.take_in(observations);
        if !memory.files.is_sorted_by(|a, b| a.0 < b.0) {
            memory.files.sort_by(|a, b| a.0.cmp(&b.0));
            memory.files.dedup_by(|a, b| a.0 == b.0);
        }
        if memory.place.is_none() {
            memory.changed = (0..memory.files.len()).collect();
        }
        Ok(memory)
    }

    /// What targets were found to hold from this source, and no scan saw: after a loss of state they are looked for, too.
    fn take_in(&mut self, observations: &mut dyn Observations) {
        let learned = observations.learned();
        if learned.is_empty() {
            return;
        }
        let seen: BTreeSet<&TargetPath> = self.files.iter().map(|(path, _)| path).collect();
        let unseen: Vec<_> = learned
            .iter()
            .filter(|file| !seen.contains(&file.path))
            .map(|file| (file.path.clone(), never(file)))
            .collect();
        if !unseen.is_empty() {
            self.files.extend(unseen);
            self.recorded.get_or_insert_with(|| observations.recorded()).extend(learned);
        }
    }

    /// Whether any file that was there at the last scan is there now.
    pub fn holds_any(&self, files: &[(TargetPath, Facts)]) -> bool {
        let mut present = self.files.iter().filter(|(_, seen)| seen.absent_ns.is_none()).peekable();
        present.peek().is_none()
            || present.any(|(path, seen)| {
                files.binary_search_by(|f| f.0.cmp(path)).is_ok_and(|at| files[at].1.size == seen.size)
            })
    }

    /// Whether the root is, for all that is known, on the file system that it was on at the last scan.
    pub fn same_root(&self, walk: &Walk, place: Place) -> bool {
        let Some(known) = self.place else { return true };
        let now = walk.mounts.first().filter(|mount| mount.path.is_root());
        match (self.mounts.first().filter(|mount| mount.path.is_root()), now) {
            (Some(was), Some(now)) if !mounts::same(&was.identity, &now.identity) => false,
            (Some(_), Some(now)) if mounts::proves(&now.identity) => true,
            // A name proves little: the device number is another hint.
            _ => known.device == place.device,
        }
    }

    /// Merges a walk in; `walk.files` is taken. Errors: those of the judge's digest.
    pub fn observe(&mut self, walk: &mut Walk, judge: &mut Judge<'_>) -> Result<Sight> {
        let found = std::mem::take(&mut walk.files);
        let before = std::mem::take(&mut self.files);
        let was_changed: BTreeSet<usize> = self.changed.drain(..).collect();
        let places = Places::judge(&self.mounts, walk, &before, &found);
        let drift = Drift::find(&self.mounts, walk, &before, &found);
        let root_device = self.place.map(|place| place.device);
        let evidence = self.evidence(walk, &before, &found, root_device, judge)?;
        let mut doubts = Doubts::new(&places);
        self.files.reserve(found.len().max(before.len()));
        let mut sight = Sight { files: Vec::with_capacity(found.len()), ..Sight::default() };
        let mut gone = Gone {
            walk,
            judge,
            places: &places,
            evidence: &evidence,
            doubts: &mut doubts,
            root_device,
            absent: &mut sight.absent,
        };
        let fresh = self.place.is_none();
        let mut old = before.into_iter().enumerate().peekable();
        for (path, facts) in found {
            while let Some((at, (missing, seen))) = old.next_if(|(_, (o, _))| *o < path) {
                let (seen, changed) = gone.judge(&missing, seen);
                self.remember(missing, seen, changed || was_changed.contains(&at));
            }
            let now_ns = gone.judge.now_ns;
            let covering = gone.walk.covering(&path).map(|mount| Arc::clone(&mount.identity));
            let doubtful = gone.places.doubtful(&path).is_some();
            let known = old.next_if(|(_, (o, _))| *o == path);
            let (seen, changed) = match known {
                Some((at, (_, mut seen))) if drift.same(&path, &seen, &facts) => {
                    let exact = (seen.mtime_ns, seen.ctime_ns, seen.inode)
                        == (facts.mtime_ns, facts.ctime_ns, facts.inode);
                    // A clock that was set back must not make a file wait until it catches up.
                    let mut changed = was_changed.contains(&at)
                        || seen.absent_ns.is_some()
                        || seen.since_ns > now_ns
                        || !exact;
                    (seen.mtime_ns, seen.ctime_ns, seen.inode) =
                        (facts.mtime_ns, facts.ctime_ns, facts.inode);
                    seen.since_ns = seen.since_ns.min(now_ns);
                    if seen.absent_ns.take().is_some() {
                        (seen.since_ns, seen.earlier) = (now_ns, None);
                    }
                    // In a place that is in doubt, what was known stays known, until the user says otherwise.
                    if seen.mount != covering && !(doubtful && seen.mount.is_some()) {
                        (seen.mount, seen.device, changed) = (covering, facts.device, true);
                    }
                    (seen, changed)
                }
                other => {
                    let before = other.as_ref().map(|(_, (_, seen))| seen);
                    let earlier = earlier::of(before, fresh, now_ns, gone.judge.settle_ns);
                    (Seen { mount: covering, earlier, ..first_seen(&facts, now_ns) }, true)
                }
            };
            sight.files.push((path.clone(), facts, seen.since_ns, Opened::of(&seen)));
            self.remember(path, seen, changed);
        }
        for (at, (missing, seen)) in old {
            let (seen, changed) = gone.judge(&missing, seen);
            self.remember(missing, seen, changed || was_changed.contains(&at));
        }
        sight.doubts = doubts.tell();
        sight.earlier = self.keep_earlier(&sight.absent);
        let mounts = places.remembered(&drift);
        self.mounts_changed |= mounts != self.mounts;
        self.mounts = mounts;
        if drift.any() {
            for (path, facts, ..) in &mut sight.files {
                drift.blank(path, facts);
            }
        }
        Ok(sight)
    }

    /// What can be proved of directories in which something is missing that no scan saw on its file system.
    fn evidence(
        &self,
        walk: &Walk,
        before: &[(TargetPath, Seen)],
        found: &[(TargetPath, Facts)],
        root_device: Option<u64>,
        judge: &mut Judge<'_>,
    ) -> Result<Evidence> {
        let Some(recorded) = &self.recorded else { return Ok(Evidence::default()) };
        let missing = before.iter().filter(|(path, seen)| {
            seen.mount.is_none()
                && !was_on_root(seen, root_device)
                && found.binary_search_by(|f| f.0.cmp(path)).is_err()
                && !walk.unknown(path)
                && !judge.ignore.covers(path)
        });
        let directories = missing.map(|(path, _)| path.parent().unwrap_or_default()).collect();
        Evidence::gather(directories, recorded, found, judge.digest)
    }

    /// What files were matters only where something beside them was missing then.
    fn keep_earlier(&mut self, absent: &BTreeMap<TargetPath, i64>) -> BTreeMap<TargetPath, Earlier> {
        let missing = Missing::in_directories(absent);
        let mut kept = BTreeMap::new();
        for (path, seen) in &mut self.files {
            let Some(earlier) = seen.earlier else { continue };
            if missing.before(path, &earlier) {
                kept.insert(path.clone(), earlier);
            } else {
                // What the store still has of it is of no use, and does no harm.
                seen.earlier = None;
            }
        }
        kept
    }

    fn remember(&mut self, path: TargetPath, seen: Seen, changed: bool) {
        if changed {
            self.changed.push(self.files.len());
        }
        self.files.push((path, seen));
    }

    pub(super) fn set_mounts(&mut self, mounts: Vec<MountPoint>) {
        self.mounts = mounts;
        self.mounts_changed = true;
    }

    /// What was remembered of the file's header.
    pub fn header(&self, path: &TargetPath) -> Option<&[u8]> {
        let at = self.files.binary_search_by(|f| f.0.cmp(path)).ok()?;
        self.files[at].1.header.as_deref()
    }

    pub fn set_header(&mut self, path: &TargetPath, header: Vec<u8>) {
        if let Ok(at) = self.files.binary_search_by(|f| f.0.cmp(path)) {
            self.files[at].1.header = Some(header);
            self.changed.push(at);
        }
    }

    /// Paths that have been absent for long and that no target holds: a source that rotates would fill the store.
    fn forgettable(&self, observations: &dyn Observations, now_ns: i64) -> Vec<TargetPath> {
        let long_gone =
            |seen: &Seen| seen.absent_ns.is_some_and(|since| now_ns.saturating_sub(since) > KEEP_NS);
        let mut gone: Vec<TargetPath> =
            self.files.iter().filter(|(_, seen)| long_gone(seen)).map(|(path, _)| path.clone()).collect();
        if !gone.is_empty() {
            let mut held = observations.known_paths();
            held.sort();
            gone.retain(|path| held.binary_search(path).is_err());
        }
        gone
    }

    /// Hands what is new to the store.
    pub fn save(&mut self, observations: &mut dyn Observations, place: Place, now_ns: i64) -> Result<()> {
        let forget = self.forgettable(observations, now_ns);
        self.changed.sort_unstable();
        self.changed.dedup();
        let put = self.changed.drain(..).map(|at| self.files[at].clone()).collect();
        let mounts = std::mem::take(&mut self.mounts_changed).then(|| self.mounts.clone());
        let place_learned = (self.place != Some(place)).then_some(place);
        let learned = Learned { place: place_learned, mounts, put, forget };
        self.place = Some(place);
        if learned.is_empty() {
            return Ok(());
        }
        observations.save(&learned)
    }
}

/// Judges files that are not found.
struct Gone<'a, 'j, 'd> {
    walk: &'a Walk,
    judge: &'a mut Judge<'j>,
    places: &'a Places,
    evidence: &'a Evidence,
    doubts: &'a mut Doubts<'d>,
    root_device: Option<u64>,
    absent: &'a mut BTreeMap<TargetPath, i64>,
}

impl Gone<'_, '_, '_> {
    /// What to remember of a file that was there, and whether that is new.
    fn judge(&mut self, path: &TargetPath, mut seen: Seen) -> (Seen, bool) {
        let before = (seen.absent_ns, seen.mount.clone());
        let since = seen.absent_ns.unwrap_or(self.judge.now_ns).min(self.judge.now_ns);
        let absent = self.absent(path, &mut seen, since);
        // Where nobody could look, nothing is absent, and an absence proven earlier starts anew.
        seen.absent_ns = absent.then_some(since);
        if absent {
            self.absent.insert(path.clone(), since);
        }
        let changed = (seen.absent_ns, &seen.mount) != (before.0, &before.1);
        (seen, changed)
    }

    fn absent(&mut self, path: &TargetPath, seen: &mut Seen, since: i64) -> bool {
        if self.judge.ignore.covers(path) {
            return false;
        }
        if let Some(place) = self.places.doubtful(path) {
            self.doubts.add_to_place(place, path, seen);
            return false;
        }
        if self.walk.unknown(path) {
            self.doubts.add_beneath_link(self.walk, path, seen);
            return false;
        }
        let Some(covering) = self.walk.covering(path) else {
            // Nothing is known of mounts at all (a walk that was made up): as if all were one file system.
            return true;
        };
        if seen.mount.is_none() && was_on_root(seen, self.root_device) && covering.path.is_root() {
            seen.mount = Some(Arc::clone(&covering.identity));
        }
        match &seen.mount {
            Some(was) if mounts::same(was, &covering.identity) => true,
            Some(was) => {
                self.doubts.add_elsewhere(covering, &Arc::clone(was), path, seen);
                false
            }
            None => {
                if let Some(was) = self.evidence.recorded_elsewhere(path, &covering.identity) {
                    self.doubts.add_elsewhere(covering, &was, path, seen);
                    return false;
                }
                if !self.evidence.proved(path) {
                    self.doubts.add_unproven(path, seen);
                    return false;
                }
                // Proved once at `since`; the second time it is known where it lay.
                let twice = since < self.judge.now_ns
                    && since <= self.judge.now_ns.saturating_sub(self.judge.settle_ns);
                if twice {
                    seen.mount = Some(Arc::clone(&covering.identity));
                }
                true
            }
        }
    }
}

/// A row of a database that knew devices only: the root's device of the same scan tells that it lay on the root's file
/// system.
fn was_on_root(seen: &Seen, root_device: Option<u64>) -> bool {
    seen.device != 0 && root_device == Some(seen.device)
}

/// What no scan saw, but some target has.
fn never(file: &RecordedFile) -> Seen {
    Seen {
        size: file.size,
        mtime_ns: i64::MIN,
        ctime_ns: 0,
        inode: 0,
        device: 0,
        mount: None,
        since_ns: 0,
        absent_ns: None,
        header: None,
        earlier: None,
    }
}

fn first_seen(facts: &Facts, now_ns: i64) -> Seen {
    Seen {
        size: facts.size,
        mtime_ns: facts.mtime_ns,
        ctime_ns: facts.ctime_ns,
        inode: facts.inode,
        device: facts.device,
        mount: None,
        since_ns: now_ns,
        absent_ns: None,
        header: None,
        earlier: None,
    }
}
