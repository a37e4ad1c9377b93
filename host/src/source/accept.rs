//! The user says that what is mounted in the source now is what is meant to be there.
//!
//! From then on an absence counts there as elsewhere: when two scans, one settle time apart, do not find a file.

use std::path::Path;
use std::sync::Arc;

use offsite_plugin_api::TargetPath;

use super::memory::Memory;
use super::scan::Look;
use super::tree::OnDisk;
use super::walk::Walk;
use super::{Clock, MountPoint, Observations, mounts};
use crate::error::{Error, Kind, Result};

/// What was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Relative to the source's root.
    pub place: TargetPath,
    /// What is there now, in words.
    pub now: String,
    /// Files that were remembered there and are not there: they count as absent from the next two scans on.
    pub missing: u64,
}

/// Adopts what is mounted at and beneath `place`, and forgets every doubt about it. `globs`: the job's `ignore`.
///
/// Errors: [`Kind::Source`] when the source cannot be read; [`Kind::Usage`] when the place is not there, or lies within a
/// place that is in doubt as a whole.
pub fn accept(
    root: &Path,
    place: &TargetPath,
    globs: &[String],
    observations: &mut dyn Observations,
    clock: &mut dyn Clock,
) -> Result<Accepted> {
    let mut memory = Memory::load(observations)?;
    let Look { tree, end, found, .. } = Look::at(&OnDisk::new(root, globs)?, root, clock)?;
    let accepted = memory.accept(place, &found)?;
    memory.save(observations, tree.place(), end)?;
    Ok(accepted)
}

impl Memory {
    fn accept(&mut self, place: &TargetPath, walk: &Walk) -> Result<Accepted> {
        let refuse = |what: &str| Error::new(Kind::Usage, what).on(place.display());
        if walk.unknown(place) {
            return Err(refuse("this place of the source cannot be looked at, or is left alone")
                .hint("make it readable first, or mount what belongs there"));
        }
        let same = |was: &MountPoint| {
            walk.mounts.iter().any(|now| now.path == was.path && mounts::same(&now.identity, &was.identity))
        };
        let above = |was: &&MountPoint| place != &was.path && place.starts_with(&was.path);
        if let Some(whole) = self.mounts.iter().filter(above).find(|was| !same(was)) {
            let text = if whole.path.is_root() { ".".into() } else { whole.path.display() };
            return Err(refuse("the place lies within another one that is in doubt")
                .hint(format!("accept that: 'offsite source accept {text}'")));
        }
        let now = walk.covering(place).ok_or_else(|| refuse("nothing is known of what is mounted there"))?;
        let now = mounts::shown(&now.identity);
        let mut mounts: Vec<MountPoint> =
            self.mounts.iter().filter(|was| !was.path.starts_with(place)).cloned().collect();
        mounts.extend(walk.mounts.iter().filter(|mount| mount.path.starts_with(place)).map(|mount| {
            MountPoint {
                path: mount.path.clone(),
                identity: Arc::clone(&mount.identity),
                occasion: mount.occasion.clone(),
                inodes_drift: false,
                ctimes_drift: false,
            }
        }));
        mounts.sort_by(|a, b| a.path.cmp(&b.path));
        self.set_mounts(mounts);
        let mut missing = 0;
        for (at, (path, seen)) in self.files.iter_mut().enumerate() {
            if !path.starts_with(place) {
                continue;
            }
            missing += u64::from(walk.files.binary_search_by(|f| f.0.cmp(path)).is_err());
            let mount = walk.covering(path).map(|mount| Arc::clone(&mount.identity));
            if seen.mount != mount || seen.absent_ns.is_some() {
                (seen.mount, seen.absent_ns) = (mount, None);
                self.changed.push(at);
            }
        }
        Ok(Accepted { place: place.clone(), now, missing })
    }
}
