//! Places of the source of which nothing can be concluded: a file system that was mounted there is not, another one is, a
//! link stands in a folder's place; and how many remembered files that concerns.

use std::collections::BTreeMap;
use std::sync::Arc;

use offsite_plugin_api::TargetPath;

use super::drift::Drift;
use super::walk::{Facts, Mounted, Walk};
use super::{Doubt, DoubtCause, LeftBy, MountPoint, Seen, mounts};

/// What became of the mount points that were remembered.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// By path.
    doubtful: BTreeMap<TargetPath, (MountPoint, DoubtCause)>,
    /// As they are now, and in no doubt.
    good: Vec<MountPoint>,
    /// Where nobody could look.
    unseen: Vec<MountPoint>,
}

impl Places {
    /// `before` and `found` are sorted by path.
    pub fn judge(
        remembered: &[MountPoint],
        walk: &Walk,
        before: &[(TargetPath, Seen)],
        found: &[(TargetPath, Facts)],
    ) -> Self {
        let mut places = Self::default();
        for was in remembered {
            let now = walk.mounts.iter().find(|mount| mount.path == was.path);
            let same = now.is_some_and(|now| mounts::same(&now.identity, &was.identity));
            let beneath = beneath(before, &was.path);
            let at_stake = || beneath.iter().any(|(path, seen)| is_of(path, seen, was, remembered));
            if same {
                // The name of where it came from proves little: a share that is not there behind it is empty.
                let empty = beneath.iter().any(|(_, seen)| seen.absent_ns.is_none())
                    && !mounts::proves(&was.identity)
                    && self::beneath(found, &was.path).is_empty();
                if empty && !was.path.is_root() && at_stake() {
                    let cause = DoubtCause::Empty { was: mounts::shown(&was.identity) };
                    places.doubtful.insert(was.path.clone(), (was.clone(), cause));
                }
            } else if now.is_none() && walk.unknown(&was.path) {
                places.unseen.push(was.clone());
            } else if at_stake() {
                let cause = DoubtCause::Mount {
                    was: mounts::shown(&was.identity),
                    now: now.map(|now| mounts::shown(&now.identity)),
                };
                places.doubtful.insert(was.path.clone(), (was.clone(), cause));
            }
        }
        for now in walk.mounts.iter().filter(|now| !places.doubtful.contains_key(&now.path)) {
            places.good.push(MountPoint {
                path: now.path.clone(),
                identity: Arc::clone(&now.identity),
                occasion: now.occasion.clone(),
                inodes_drift: false,
                ctimes_drift: false,
            });
        }
        places
    }

    /// The place in doubt that a path lies in: the outermost, because nothing within is known either.
    pub fn doubtful(&self, path: &TargetPath) -> Option<&TargetPath> {
        if self.doubtful.is_empty() {
            return None;
        }
        self.doubtful.keys().find(|place| path.starts_with(place))
    }

    /// What to remember of mount points.
    pub fn remembered(&self, drift: &Drift) -> Vec<MountPoint> {
        let good = self.good.iter().map(|good| {
            let (inodes_drift, ctimes_drift) = drift.of(&good.path);
            MountPoint { inodes_drift, ctimes_drift, ..good.clone() }
        });
        let kept = self.doubtful.values().map(|(was, _)| was.clone()).chain(self.unseen.iter().cloned());
        let mut all: Vec<MountPoint> = good.chain(kept).collect();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }
}

/// The part of a list sorted by path that lies beneath a place.
pub(super) fn beneath<'a, T>(sorted: &'a [(TargetPath, T)], place: &TargetPath) -> &'a [(TargetPath, T)] {
    if place.is_root() {
        return sorted;
    }
    let mut first = place.as_bytes().to_vec();
    first.push(b'/');
    let from = sorted.partition_point(|(path, _)| path.as_bytes() < first.as_slice());
    let inside = |(path, _): &(TargetPath, T)| path.as_bytes().starts_with(&first);
    &sorted[from..from + sorted[from..].partition_point(inside)]
}

/// Whether a remembered file lay on what was mounted at `was`, rather than on what lies above it or is mounted within.
fn is_of(path: &TargetPath, seen: &Seen, was: &MountPoint, remembered: &[MountPoint]) -> bool {
    match &seen.mount {
        Some(mount) => mounts::same(mount, &was.identity),
        None => {
            let deepest = remembered.iter().rev().find(|place| path.starts_with(&place.path));
            deepest.is_some_and(|place| place.path == was.path)
        }
    }
}

/// Doubts while they are counted.
pub(super) struct Doubts<'a> {
    places: &'a Places,
    of_place: BTreeMap<TargetPath, Doubt>,
    others: BTreeMap<(TargetPath, String), Doubt>,
}

impl<'a> Doubts<'a> {
    pub fn new(places: &'a Places) -> Self {
        let doubt = |(place, (_, cause)): (&TargetPath, &(MountPoint, DoubtCause))| {
            (place.clone(), empty(place, cause.clone()))
        };
        // What lies within another place in doubt is told with that.
        let outermost = places.doubtful.iter().filter(|(place, _)| places.doubtful(place) == Some(place));
        Self { places, of_place: outermost.map(doubt).collect(), others: BTreeMap::new() }
    }

    pub fn add_to_place(&mut self, place: &TargetPath, path: &TargetPath, seen: &Seen) {
        debug_assert!(self.places.doubtful.contains_key(place));
        if let Some(doubt) = self.of_place.get_mut(place) {
            count(doubt, path, seen);
        }
    }

    /// The file lay on another file system than the one that is there now, at a place that was no mount point.
    pub fn add_elsewhere(&mut self, now: &Mounted, was: &str, path: &TargetPath, seen: &Seen) {
        let cause = DoubtCause::Mount {
            was: mounts::shown(was),
            now: (!now.path.is_root()).then(|| mounts::shown(&now.identity)),
        };
        // Where nothing is mounted below the root, the folder of the file is the place.
        let place = if now.path.is_root() { path.parent().unwrap_or_default() } else { now.path.clone() };
        self.other(&place, was, cause, path, seen);
    }

    /// Where a folder was, a link is now.
    pub fn add_beneath_link(&mut self, walk: &Walk, path: &TargetPath, seen: &Seen) {
        let mut at = path.parent();
        while let Some(here) = at.filter(|here| !here.is_root()) {
            if let Ok(found) = walk.left_alone.binary_search_by(|alone| alone.path.cmp(&here))
                && walk.left_alone[found].by == LeftBy::Link
            {
                return self.other(&here, "link", DoubtCause::Link, path, seen);
            }
            at = here.parent();
        }
    }

    pub fn add_unproven(&mut self, path: &TargetPath, seen: &Seen) {
        let place = path.parent().unwrap_or_default();
        self.other(&place, "unproven", DoubtCause::Unproven, path, seen);
    }

    fn other(&mut self, place: &TargetPath, key: &str, cause: DoubtCause, path: &TargetPath, seen: &Seen) {
        let key = (place.clone(), key.to_owned());
        count(self.others.entry(key).or_insert_with(|| empty(place, cause)), path, seen);
    }

    /// Sorted by place.
    pub fn tell(self) -> Vec<Doubt> {
        let mut all: Vec<Doubt> = self.of_place.into_values().chain(self.others.into_values()).collect();
        all.sort_by(|a, b| a.place.cmp(&b.place));
        all
    }
}

fn empty(place: &TargetPath, cause: DoubtCause) -> Doubt {
    Doubt { place: place.clone(), cause, files: 0, bytes: 0, example: None }
}

fn count(doubt: &mut Doubt, path: &TargetPath, seen: &Seen) {
    doubt.files += 1;
    doubt.bytes += seen.size;
    doubt.example.get_or_insert_with(|| path.clone());
}
