//! What earlier scans saw: the memory that lets files settle, and deletions be believed, across runs.
//!
//! The job database implements [`Observations`]; [`InMemory`] serves ad-hoc scans and tests. The trait moves everything
//! at once, because a no-change scan of 100,000 files must cost one read of a table and no write.

use std::collections::BTreeMap;
use std::sync::Arc;

use offsite_plugin_api::TargetPath;
use serde::{Deserialize, Serialize};

use super::Earlier;
use crate::error::Result;

/// What is remembered of one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub inode: u64,
    /// Of the file system that it was on, when this was written down; zero where that is not known. Devices are numbered
    /// anew at every mount: it is of use only beside [`Place::device`] of the same scan.
    #[serde(default)]
    pub device: u64,
    /// The lasting identity of the file system that it was on. `None`: seen before such were remembered, or never seen
    /// (a lost database): then its absence needs more proof.
    #[serde(default)]
    pub mount: Option<Arc<str>>,
    /// When it was first seen exactly like this, nanoseconds since the Unix epoch.
    pub since_ns: i64,
    /// When it was first found absent, while it stays so.
    pub absent_ns: Option<i64>,
    /// What its header said when it was last read, so that it is read once per change. Opaque; store it as it is.
    pub header: Option<Vec<u8>>,
    /// What it was before, where something beside it was missing already.
    #[serde(default)]
    pub earlier: Option<Earlier>,
}

/// Where the source was: the root's device and inode at the last good scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub device: u64,
    pub inode: u64,
}

/// What is remembered of a place where a file system of the source begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// Relative to the source's root, which is one.
    pub path: TargetPath,
    /// What was mounted there, by what lasts.
    pub identity: Arc<str>,
    /// Another text after every mount; empty where the kernel tells none.
    pub occasion: String,
    /// This file system numbers its inodes anew, or sets its change times anew, at every mount: they say nothing.
    pub inodes_drift: bool,
    pub ctimes_drift: bool,
}

/// What some target's record says of a file of this source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedFile {
    pub path: TargetPath,
    pub size: u64,
    pub mtime_ns: i64,
    pub blake3: Option<[u8; 32]>,
    pub mount: Option<Arc<str>>,
}

/// Everything remembered of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    pub place: Option<Place>,
    /// Empty before such were remembered.
    pub mounts: Vec<MountPoint>,
    /// Sorted by path bytes, each path once.
    pub files: Vec<(TargetPath, Seen)>,
}

/// What one scan adds to the memory; apply it in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    pub place: Option<Place>,
    /// Instead of all that were remembered.
    pub mounts: Option<Vec<MountPoint>>,
    /// Insert or replace.
    pub put: Vec<(TargetPath, Seen)>,
    /// Remove: gone for long, and no target holds them.
    pub forget: Vec<TargetPath>,
}

impl Learned {
    pub fn is_empty(&self) -> bool {
        self.place.is_none() && self.mounts.is_none() && self.put.is_empty() && self.forget.is_empty()
    }
}

/// The store of one source's observations. Read on a thread of its own while the source is walked.
pub trait Observations: Send {
    /// Everything remembered, in one go.
    fn load(&mut self) -> Result<Remembered>;

    /// Remember this, in one transaction. Not called when there is nothing to remember.
    fn save(&mut self, learned: &Learned) -> Result<()>;

    /// (size, mtime, ctime) of the file when a target last published it: a file that still is like that is settled at
    /// once, even where the observations were lost.
    fn known_settled(&self, path: &TargetPath) -> Option<(u64, i64, i64)> {
        let _ = path;
        None
    }

    /// Paths that some target holds from this source: their absence is recorded even when no scan ever saw them.
    fn known_paths(&self) -> Vec<TargetPath> {
        Vec::new()
    }

    /// Files that only a target's manifest told of: their absence is recorded even where no scan of this installation ever saw
    /// them, once their directory is proved to be the one that they lay in.
    fn learned(&self) -> Vec<RecordedFile> {
        Vec::new()
    }

    /// What the targets' records say of these files; asked only after a loss of state. A path may come several times.
    fn recorded(&self) -> Vec<RecordedFile> {
        let unknown = |path| RecordedFile { path, size: 0, mtime_ns: 0, blake3: None, mount: None };
        self.known_paths().into_iter().map(unknown).collect()
    }
}

/// Observations that live as long as the value.
#[derive(Clone, Debug, Default)]
pub struct InMemory {
    pub place: Option<Place>,
    pub mounts: Vec<MountPoint>,
    pub files: BTreeMap<TargetPath, Seen>,
    /// What targets hold: path -> (size, mtime, ctime).
    pub published: BTreeMap<TargetPath, (u64, i64, i64)>,
    /// What their records say of the content and of where it lay.
    pub records: Vec<RecordedFile>,
    /// What only manifests told of.
    pub learned: Vec<RecordedFile>,
}

impl Observations for InMemory {
    fn load(&mut self) -> Result<Remembered> {
        let files = self.files.iter().map(|(path, seen)| (path.clone(), seen.clone())).collect();
        Ok(Remembered { place: self.place, mounts: self.mounts.clone(), files })
    }

    fn save(&mut self, learned: &Learned) -> Result<()> {
        self.place = learned.place.or(self.place);
        if let Some(mounts) = &learned.mounts {
            self.mounts.clone_from(mounts);
        }
        self.files.extend(learned.put.iter().cloned());
        self.files.retain(|path, _| !learned.forget.contains(path));
        Ok(())
    }

    fn known_settled(&self, path: &TargetPath) -> Option<(u64, i64, i64)> {
        self.published.get(path).copied()
    }

    fn known_paths(&self) -> Vec<TargetPath> {
        self.published.keys().cloned().collect()
    }

    fn learned(&self) -> Vec<RecordedFile> {
        self.learned.clone()
    }

    fn recorded(&self) -> Vec<RecordedFile> {
        let bare = self.published.iter().map(|(path, (size, mtime_ns, _))| RecordedFile {
            path: path.clone(),
            size: *size,
            mtime_ns: *mtime_ns,
            blake3: None,
            mount: None,
        });
        bare.chain(self.records.iter().cloned()).collect()
    }
}
