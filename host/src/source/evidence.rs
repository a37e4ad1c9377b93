//! After a loss of state: which directories are known again.
//!
//! What targets' records say was here is missing now, and no scan ever saw on which file system it lay. A directory that
//! still holds a recorded file, with the recorded content, is the one that the missing file was in; an empty mount point,
//! or another disk with folders of the same names, holds none. One small file is read for each such directory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use offsite_plugin_api::TargetPath;

use super::walk::Facts;
use super::{RecordedFile, mounts};
use crate::error::Result;

/// Files tried in a directory before it counts as unknown.
const TRIED: usize = 2;

/// Recorded files of one directory that are there, the smallest first, with the contents recorded of each.
type Witnesses<'a> = BTreeMap<(u64, &'a TargetPath), Vec<[u8; 32]>>;

#[derive(Debug, Default)]
pub(super) struct Evidence {
    proved: BTreeSet<TargetPath>,
    /// Where records say that a missing file lay.
    mounts: BTreeMap<TargetPath, Arc<str>>,
}

impl Evidence {
    /// `found` is sorted by path. Errors: those of `digest`.
    pub fn gather(
        directories: BTreeSet<TargetPath>,
        recorded: &[RecordedFile],
        found: &[(TargetPath, Facts)],
        digest: &mut dyn FnMut(&TargetPath) -> Result<Option<[u8; 32]>>,
    ) -> Result<Self> {
        let mut evidence = Self::default();
        if directories.is_empty() {
            return Ok(evidence);
        }
        let mut witnesses: BTreeMap<&TargetPath, Witnesses<'_>> =
            directories.iter().map(|directory| (directory, BTreeMap::new())).collect();
        for file in recorded {
            let Some(in_directory) = witnesses.get_mut(&file.path.parent().unwrap_or_default()) else {
                continue;
            };
            let now = found.binary_search_by(|f| f.0.cmp(&file.path)).ok().map(|at| &found[at].1);
            match (now, file.blake3) {
                (Some(now), Some(blake3)) if (now.size, now.mtime_ns) == (file.size, file.mtime_ns) => {
                    in_directory.entry((file.size, &file.path)).or_default().push(blake3);
                }
                (None, _) => {
                    if let Some(mount) = &file.mount {
                        evidence.mounts.insert(file.path.clone(), Arc::clone(mount));
                    }
                }
                _ => {}
            }
        }
        for (directory, files) in witnesses {
            for ((_, path), known) in files.into_iter().take(TRIED) {
                if digest(path)?.is_some_and(|now| known.contains(&now)) {
                    evidence.proved.insert(directory.clone());
                    break;
                }
            }
        }
        Ok(evidence)
    }

    /// Whether the directory of this missing file is the one that it was in.
    pub fn proved(&self, path: &TargetPath) -> bool {
        self.proved.contains(&path.parent().unwrap_or_default())
    }

    /// The file system that the missing file lay on, where its record says so and it is not `covering`.
    pub fn recorded_elsewhere(&self, path: &TargetPath, covering: &str) -> Option<Arc<str>> {
        self.mounts.get(path).filter(|was| !mounts::same(was, covering)).cloned()
    }
}
