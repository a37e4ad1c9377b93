//! Fields that a file system sets anew at every mount: inodes and change times on CIFS, NFS and FUSE.
//!
//! They are found out, not presumed: where nearly all files of one mount are as they were by size and modification time,
//! and have another inode (or change time), nobody rewrote all of them: the field says nothing there, and is left out from
//! then on. Linux's own file systems are not asked; there, such a thing is a rewrite.

use std::collections::BTreeMap;

use offsite_plugin_api::TargetPath;

use super::walk::{Facts, Walk};
use super::{MountPoint, Seen, mounts, same_mtime};

/// So many files are too few to tell.
const FEW: usize = 2;

/// Per mount point as found now: whether inodes, whether change times say nothing.
#[derive(Debug, Default)]
pub(super) struct Drift {
    of: BTreeMap<TargetPath, (bool, bool)>,
}

#[derive(Default)]
struct Count {
    files: usize,
    inodes: usize,
    ctimes: usize,
}

impl Drift {
    /// What was known, and what this walk shows. `before` and `found` are sorted by path.
    pub fn find(
        known: &[MountPoint],
        walk: &Walk,
        before: &[(TargetPath, Seen)],
        found: &[(TargetPath, Facts)],
    ) -> Self {
        let mut drift = Self::default();
        let mut counts: BTreeMap<&TargetPath, Count> = BTreeMap::new();
        for mount in walk.mounts.iter().filter(|mount| mounts::may_drift(&mount.identity)) {
            let was = known.iter().find(|k| k.path == mount.path);
            let was = was.filter(|k| mounts::same(&k.identity, &mount.identity));
            let known = was.map_or((false, false), |k| (k.inodes_drift, k.ctimes_drift));
            drift.of.insert(mount.path.clone(), known);
            if was.is_some() {
                counts.insert(&mount.path, Count::default());
            }
        }
        if counts.is_empty() {
            return drift;
        }
        let mut old = before.iter().peekable();
        for (path, facts) in found {
            while old.next_if(|(o, _)| o < path).is_some() {}
            let Some((_, seen)) = old.next_if(|(o, _)| o == path) else { continue };
            let Some(count) = walk.covering(path).and_then(|mount| counts.get_mut(&mount.path)) else {
                continue;
            };
            if seen.size != facts.size || !same_mtime(seen.mtime_ns, facts.mtime_ns) || seen.inode == 0 {
                continue;
            }
            count.files += 1;
            count.inodes += usize::from(seen.inode != facts.inode);
            count.ctimes += usize::from(seen.ctime_ns != facts.ctime_ns);
        }
        let nearly_all = |part: usize, whole: usize| whole >= FEW && part * 10 >= whole * 9;
        for (path, count) in counts {
            let Some((inodes, ctimes)) = drift.of.get_mut(path) else { continue };
            *inodes |= nearly_all(count.inodes, count.files);
            // A chmod of everything moves all change times, too: only after a mount it is the mount's doing.
            let renewed = known.iter().find(|k| k.path == *path).is_some_and(|k| {
                let now = walk.mounts.iter().find(|mount| mount.path == *path);
                now.is_some_and(|now| now.occasion.is_empty() || now.occasion != k.occasion)
            });
            *ctimes |= renewed && nearly_all(count.ctimes, count.files);
        }
        drift
    }

    /// Whether inodes, whether change times say nothing on the mount that the path lies on.
    fn at(&self, path: &TargetPath) -> (bool, bool) {
        if self.of.is_empty() {
            return (false, false);
        }
        let above = self.of.iter().rev().find(|(place, _)| path.starts_with(place));
        above.map_or((false, false), |(_, drift)| *drift)
    }

    /// The same by the mount point itself.
    pub fn of(&self, place: &TargetPath) -> (bool, bool) {
        self.of.get(place).copied().unwrap_or_default()
    }

    pub fn any(&self) -> bool {
        self.of.values().any(|(_, ctimes)| *ctimes)
    }

    /// Whether a file is what it was, as far as its file system tells.
    pub fn same(&self, path: &TargetPath, seen: &Seen, facts: &Facts) -> bool {
        if seen.size != facts.size || !same_mtime(seen.mtime_ns, facts.mtime_ns) {
            return false;
        }
        if (seen.ctime_ns, seen.inode) == (facts.ctime_ns, facts.inode) {
            return true;
        }
        let (inodes, ctimes) = self.at(path);
        (inodes || seen.inode == facts.inode) && (ctimes || seen.ctime_ns == facts.ctime_ns)
    }

    /// A change time that says nothing is not passed on: zero is "not known".
    pub fn blank(&self, path: &TargetPath, facts: &mut Facts) {
        if self.at(path).1 {
            facts.ctime_ns = 0;
        }
    }
}
