//! The snapshot of a source that one scan gives: what every worker of the job plans from.

use std::path::PathBuf;

use offsite_plugin_api::TargetPath;
use serde::{Deserialize, Serialize};

use crate::format::Recognised;

/// One settled regular file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Relative to the source's root.
    pub path: TargetPath,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub device: u64,
    pub inode: u64,
    /// What its name and header say; `None` for a file no format knows.
    pub recognised: Option<Recognised>,
}

/// A file that was left out of this scan, and why, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsettled {
    pub path: TargetPath,
    pub reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    pub root: PathBuf,
    /// Device and inode of the root.
    pub device: u64,
    pub inode: u64,
    /// Sorted by path.
    pub files: Vec<SourceFile>,
    /// Seen, but still being written or in progress. They exist: their absence from `files` never means deletion.
    pub unsettled: Vec<Unsettled>,
    /// Never replicated: symbolic links, sockets, trash and snapshot folders; with the reason.
    #[serde(default)]
    pub left_alone: Vec<Unsettled>,
    /// Directories that could not be read, with the reason; not empty forbids every deletion.
    pub unreadable: Vec<(TargetPath, String)>,
    /// When the scan ended, nanoseconds since the Unix epoch.
    pub scanned_ns: i64,
    /// Paths that were absent in an earlier scan at least one settle time ago and are absent now, may be deleted:
    /// when each known path was first found absent, nanoseconds since the Unix epoch.
    pub absent_since: std::collections::BTreeMap<TargetPath, i64>,
    /// The settle time this scan used, nanoseconds.
    pub settle_ns: i64,
    /// Settled files whose content cannot be what their name says, and why, in words. What is merely empty shows by its
    /// size, and is not named here.
    #[serde(default)]
    pub bad: std::collections::BTreeMap<TargetPath, String>,
}

impl Inventory {
    /// The settled file of that path.
    pub fn file(&self, path: &TargetPath) -> Option<&SourceFile> {
        self.files.binary_search_by(|f| f.path.cmp(path)).ok().map(|at| &self.files[at])
    }
}
