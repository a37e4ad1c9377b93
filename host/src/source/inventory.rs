//! The snapshot of a source that one scan gives: what every worker of the job plans from.

use std::path::PathBuf;
use std::sync::Arc;

use offsite_plugin_api::TargetPath;
use serde::{Deserialize, Serialize};

use super::Earlier;
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

/// Why a file that is there cannot be taken now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// It changed, or was first seen, less than a settle time ago.
    #[default]
    Unsettled,
    /// Its name is that of a file still being written.
    InProgress,
    /// Another program holds it: a lock, or a share that refuses to open what is open elsewhere.
    InUse,
    /// It cannot be read, and waiting will not change that.
    Unreadable,
}

/// A file that was left out of this scan, and why, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsettled {
    pub path: TargetPath,
    pub reason: String,
    #[serde(default)]
    pub cause: Cause,
}

/// What makes something be never replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeftBy {
    /// A symbolic link.
    Link,
    /// A file system's or a storage box's own folder.
    Housekeeping,
    /// A device, a socket, a pipe.
    Special,
    /// A name that no target can hold.
    Name,
}

/// Something that is never replicated, and why, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftAlone {
    pub path: TargetPath,
    pub by: LeftBy,
    pub reason: String,
}

/// Files that were at the source and are not found, of which nobody can say whether they were deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// The place that nothing is known of.
    pub place: TargetPath,
    pub cause: DoubtCause,
    /// How many files were there.
    pub files: u64,
    pub bytes: u64,
    /// One of them.
    pub example: Option<TargetPath>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DoubtCause {
    /// Another file system is there now, or none. Both in words; `now` is `None` where nothing is mounted.
    Mount { was: String, now: Option<String> },
    /// The same file system by its name, which proves little, and it is empty.
    Empty { was: String },
    /// A symbolic link is there now.
    Link,
    /// The memory of the source was lost, and the folder holds nothing by which it is known again.
    Unproven,
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
    pub left_alone: Vec<LeftAlone>,
    /// Directories that could not be read, with the reason: nothing is deleted that may belong there.
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
    /// The file systems that make up the source, by the place each is mounted at and by what lasts; the root first.
    #[serde(default)]
    pub mounts: Vec<(TargetPath, Arc<str>)>,
    /// Places of which it is not known whether what was there was deleted. Nothing of theirs is in `absent_since`.
    #[serde(default)]
    pub doubts: Vec<Doubt>,
    /// What files were before, where something beside them was missing already then.
    #[serde(default)]
    pub earlier: std::collections::BTreeMap<TargetPath, Earlier>,
    /// The job's `ignore`: what these globs name is in none of the lists above.
    #[serde(default)]
    pub ignore: Vec<String>,
}

impl Inventory {
    /// The settled file of that path.
    pub fn file(&self, path: &TargetPath) -> Option<&SourceFile> {
        self.files.binary_search_by(|f| f.path.cmp(path)).ok().map(|at| &self.files[at])
    }

    /// The lasting identity of the file system that a path lies on.
    pub fn mount(&self, path: &TargetPath) -> Option<&Arc<str>> {
        self.mounts.iter().rev().find(|(place, _)| path.starts_with(place)).map(|(_, identity)| identity)
    }

    /// The place in doubt that a path lies in.
    pub fn doubt(&self, path: &TargetPath) -> Option<&Doubt> {
        self.doubts.iter().rev().find(|doubt| path.starts_with(&doubt.place))
    }
}
