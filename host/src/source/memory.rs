//! The observations while a scan runs: what was remembered, compared with what is found now, and what to remember.

use std::collections::BTreeMap;

use offsite_plugin_api::TargetPath;

use super::walk::{Facts, Walk};
use super::{Learned, Observations, Place, Seen};
use crate::error::Result;

/// How long an absence is remembered at least: 90 days.
const KEEP_NS: i64 = 90 * 24 * 3600 * 1_000_000_000;

/// A file found, with the time since when it looks like this, nanoseconds since the Unix epoch.
pub(super) type Observed = (TargetPath, Facts, i64);

pub(super) struct Memory {
    pub place: Option<Place>,
    /// Sorted by path.
    files: Vec<(TargetPath, Seen)>,
    /// Indices of `files` that the store does not hold like this.
    changed: Vec<usize>,
}

impl Memory {
    pub fn load(observations: &mut dyn Observations) -> Result<Self> {
        let remembered = observations.load()?;
        let mut memory = Self { place: remembered.place, files: remembered.files, changed: Vec::new() };
        if !memory.files.is_sorted_by(|a, b| a.0 < b.0) {
            memory.files.sort_by(|a, b| a.0.cmp(&b.0));
            memory.files.dedup_by(|a, b| a.0 == b.0);
        }
        if memory.place.is_none() && memory.files.is_empty() {
            // A lost database: what targets hold is known to have been here.
            let never = Seen {
                size: 0,
                mtime_ns: 0,
                ctime_ns: 0,
                inode: 0,
                device: 0,
                since_ns: 0,
                absent_ns: None,
                header: None,
            };
            memory.files = observations.known_paths().into_iter().map(|path| (path, never.clone())).collect();
            memory.files.sort_by(|a, b| a.0.cmp(&b.0));
            memory.files.dedup_by(|a, b| a.0 == b.0);
        }
        Ok(memory)
    }

    /// Whether any file that was there at the last scan is there now.
    pub fn holds_any(&self, files: &[(TargetPath, Facts)]) -> bool {
        let mut present = self.files.iter().filter(|(_, seen)| seen.absent_ns.is_none()).peekable();
        present.peek().is_none()
            || present.any(|(path, seen)| {
                files.binary_search_by(|f| f.0.cmp(path)).is_ok_and(|at| files[at].1.size == seen.size)
            })
    }

    /// Merges a walk in. Gives each file with the time since when it looks like this, and the absent paths with the time
    /// since when they are absent. `walk.files` is taken.
    pub fn observe(&mut self, walk: &mut Walk, now_ns: i64) -> (Vec<Observed>, BTreeMap<TargetPath, i64>) {
        let found = std::mem::take(&mut walk.files);
        let before = std::mem::take(&mut self.files);
        let was_changed: std::collections::BTreeSet<usize> = self.changed.drain(..).collect();
        self.files.reserve(found.len().max(before.len()));
        let mut absent = BTreeMap::new();
        let mounts = self.mounts(walk, &before, &found);
        let mut out = Vec::with_capacity(found.len());
        let mut old = before.into_iter().enumerate().peekable();
        for (path, facts) in found {
            while let Some((at, (gone, seen))) = old.next_if(|(_, (o, _))| *o < path) {
                self.absent(walk, &mounts, (gone, seen), now_ns, was_changed.contains(&at), &mut absent);
            }
            let known = old.next_if(|(_, (o, _))| *o == path);
            let (seen, changed) = match known {
                Some((at, (_, mut seen))) if same(&seen, &facts) => {
                    // A clock that was set back must not make a file wait until it catches up.
                    let changed = was_changed.contains(&at)
                        || seen.absent_ns.is_some()
                        || seen.since_ns > now_ns
                        || seen.device != facts.device;
                    seen.device = facts.device;
                    seen.since_ns = seen.since_ns.min(now_ns);
                    if seen.absent_ns.take().is_some() {
                        seen.since_ns = now_ns;
                    }
                    (seen, changed)
                }
                _ => (first_seen(&facts, now_ns), true),
            };
            out.push((path.clone(), facts, seen.since_ns));
            self.remember(path, seen, changed);
        }
        for (at, (gone, seen)) in old {
            self.absent(walk, &mounts, (gone, seen), now_ns, was_changed.contains(&at), &mut absent);
        }
        (out, absent)
    }

    /// Devices that have another number now, as after a reboot: the root's, and that of a file system inside the source
    /// where a file of it is found under its old path again, on another file system than the root's. A file system that
    /// is not mounted has no such file: its directory is empty, or shows what lies beneath.
    fn mounts(
        &self,
        walk: &Walk,
        before: &[(TargetPath, Seen)],
        found: &[(TargetPath, Facts)],
    ) -> BTreeMap<u64, u64> {
        let mut mounts = BTreeMap::new();
        for (path, seen) in before {
            if seen.device == 0 || walk.devices.contains(&seen.device) || mounts.contains_key(&seen.device) {
                continue;
            }
            if self.place.is_some_and(|place| place.device == seen.device) {
                mounts.insert(seen.device, walk.device);
            } else if let Ok(at) = found.binary_search_by(|f| f.0.cmp(path))
                && found[at].1.device != walk.device
            {
                mounts.insert(seen.device, found[at].1.device);
            }
        }
        mounts
    }

    fn absent(
        &mut self,
        walk: &Walk,
        mounts: &BTreeMap<u64, u64>,
        (path, mut seen): (TargetPath, Seen),
        now_ns: i64,
        changed: bool,
        absent: &mut BTreeMap<TargetPath, i64>,
    ) {
        let device = mounts.get(&seen.device).copied().unwrap_or(seen.device);
        let mounted = device == 0 || walk.devices.contains(&device);
        // Where nobody could look, nothing is absent, and an absence proven earlier starts anew.
        let unknown = !mounted || walk.unknown(&path);
        let since = if unknown { None } else { Some(seen.absent_ns.unwrap_or(now_ns).min(now_ns)) };
        let changed = changed || seen.absent_ns != since || seen.device != device;
        seen.device = device;
        seen.absent_ns = since;
        if let Some(since) = since {
            absent.insert(path.clone(), since);
        }
        self.remember(path, seen, changed);
    }

    fn remember(&mut self, path: TargetPath, seen: Seen, changed: bool) {
        if changed {
            self.changed.push(self.files.len());
        }
        self.files.push((path, seen));
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
        let learned = Learned { place: (self.place != Some(place)).then_some(place), put, forget };
        self.place = Some(place);
        if learned.is_empty() {
            return Ok(());
        }
        observations.save(&learned)
    }
}

fn same(seen: &Seen, facts: &Facts) -> bool {
    (seen.size, seen.mtime_ns, seen.ctime_ns, seen.inode)
        == (facts.size, facts.mtime_ns, facts.ctime_ns, facts.inode)
}

fn first_seen(facts: &Facts, now_ns: i64) -> Seen {
    Seen {
        size: facts.size,
        mtime_ns: facts.mtime_ns,
        ctime_ns: facts.ctime_ns,
        inode: facts.inode,
        device: facts.device,
        since_ns: now_ns,
        absent_ns: None,
        header: None,
    }
}
