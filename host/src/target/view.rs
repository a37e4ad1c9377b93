//! A target as the planner sees it: plain values, gathered by the worker from listing, manifest and catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use offsite_plugin_api::{Entry, TargetPath, Timestamp};
use serde::{Deserialize, Serialize};

use super::Incomplete;
use super::{Files, Stuck, evidence};
use crate::chain::Chains;
use crate::format::Recognised;

/// How thoroughly a published file was compared with its source; ordered, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyLevel {
    Size,
    Sampled,
    Digest,
    ReadBack,
}

/// What catalog or manifest remember of one file that was published (or adopted).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the content; `None` until an adopted file is read back.
    pub blake3: Option<[u8; 32]>,
    /// The source file when it was read: what "unchanged" is judged by.
    pub source_mtime_ns: i64,
    /// Zero where unknown (from a manifest, which another machine may have written).
    pub source_ctime_ns: i64,
    pub source_inode: u64,
    /// The target's entry right after the publish: what "touched by somebody else" is judged by.
    pub target_version: Option<String>,
    pub target_mtime: Option<Timestamp>,
    pub level: VerifyLevel,
    /// What its format said when it was published, header facts included.
    pub recognised: Option<Recognised>,
    /// The id of its set at the source, from the step that published it.
    pub set: String,
    /// Its image's anchor relative to the source, from the step that published it.
    pub image: TargetPath,
    /// With an anchor: the image that this one builds on, as it was when this was published. `None` for a base, and where
    /// it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Box<ParentRecord>>,
    /// The content's first bytes: what a closed format's file is known by. `None` where it is shorter, or not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<[u8; 16]>,
    /// The file system that the source file lay on, by what lasts from one mount to the next. `None` where not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<Arc<str>>,
}

/// The image that took another one in at the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbsorbedBy {
    /// Its anchor on the target, which holds the content that was judged.
    pub holder: TargetPath,
    /// Its content proves it, or the user accepted it; otherwise it is shown as `changed, unproven`.
    pub proved: bool,
}

/// What an image was published upon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentRecord {
    /// Its anchor on the target.
    pub path: TargetPath,
    /// BLAKE3 of its anchor's content.
    pub blake3: [u8; 32],
}

impl Recorded {
    /// Whether the target's entry is not what it was right after the publish. A version decides where both sides have
    /// one: it changes whenever the content may have; else the time, as exact as the server keeps it.
    pub fn touched(&self, entry: &Entry) -> bool {
        if entry.size != self.size {
            return true;
        }
        if let (Some(now), Some(then)) = (&entry.version, &self.target_version) {
            return now != then;
        }
        match (entry.mtime, self.target_mtime) {
            (Some(now), Some(then)) => {
                now.ns.abs_diff(then.ns) >= now.precision_ns.max(then.precision_ns).max(1)
            }
            _ => false,
        }
    }
}

/// One file on the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetFile {
    pub entry: Entry,
    pub recorded: Option<Box<Recorded>>,
    /// From the listing name or the header read back; `None` where the record's holds.
    pub recognised: Option<Box<Recognised>>,
}

impl From<Entry> for TargetFile {
    /// As it is listed, before anything else is known of it.
    fn from(entry: Entry) -> Self {
        Self { entry, recorded: None, recognised: None }
    }
}

impl TargetFile {
    /// What is known of it now: from its name or the header read back, else what was recorded.
    pub fn recognised(&self) -> Option<&Recognised> {
        self.recognised.as_deref().or_else(|| self.recorded.as_ref().and_then(|r| r.recognised.as_ref()))
    }
}

/// A file of which it is not known whether the target still has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    pub recorded: Box<Recorded>,
    /// Why, as a clause.
    pub why: String,
}

/// Everything the planner knows of a target.
#[derive(Clone, Debug, Default)]
pub struct TargetView {
    /// By path; the host's own names (staging, marker, manifests) left out.
    pub files: Files,
    /// Recorded as published, but not in the listing any more.
    pub gone: BTreeMap<TargetPath, Box<Recorded>>,
    /// Recorded as published, not in the listing, and not known to be gone.
    pub unknown: BTreeMap<TargetPath, Unknown>,
    /// Directories whose listing leaves something out, and why: nothing in them or below is taken for gone, or deleted.
    pub incomplete: Incomplete,
    /// Images whose span the user accepted (`offsite target accept`).
    pub accepted: Vec<TargetPath>,
    /// Spans that manifests record: image -> (first, last).
    pub spans: BTreeMap<TargetPath, crate::chain::Span>,
    /// Interrupted acts that could not be settled.
    pub stuck: Vec<Stuck>,
    /// What a run would settle first (open intents, swaps), in words.
    pub open: Vec<String>,
    /// Files whose content cannot be what their name says, and why, in words. What is merely empty shows by its size.
    pub bad: BTreeMap<TargetPath, String>,
    /// By anchor on the target: images that the source merged into another one, as the catalog knows it.
    pub absorbed: BTreeMap<TargetPath, AbsorbedBy>,
    /// Sets (as recorded) that an interrupted replacement left between old and new.
    pub in_transition: BTreeSet<String>,
    /// What earlier runs remembered of deletions that they did not do.
    pub deletes: PendingDeletes,
    /// Files that only a manifest speaks for which nobody with this target's key signed.
    pub vouched: BTreeSet<TargetPath>,
    /// Whether every record that can say what its image builds on says it. False before the first run after the upgrade from
    /// a version that recorded none, and on a target without a catalog.
    pub parents_known: bool,
    /// Files whose time moved at the source while their content stayed: the time that it had first.
    pub begun: BTreeMap<TargetPath, i64>,
    /// The target ignores the case of names: sets whose names differ in nothing else are one.
    pub folds: bool,
    pub(super) chains: OnceLock<Chains>,
}

impl TargetView {
    /// Assembled from `files`, spans and evidence included, when first asked for: a run in which nothing changed never
    /// asks.
    pub fn chains(&self) -> &Chains {
        self.chains.get_or_init(|| evidence::chains(self))
    }

    /// As if these files were there, too.
    pub fn with(&self, files: Vec<TargetFile>) -> Self {
        let files = self.files.clone().and(files);
        Self { files, chains: OnceLock::new(), ..self.clone() }
    }

    /// The directory whose listing leaves something out, and in which this path lies.
    pub fn incomplete_above(&self, path: &TargetPath) -> Option<&TargetPath> {
        super::ask::incomplete_above(&self.incomplete, path)
    }

    pub fn into_chains(self) -> Chains {
        self.chains();
        self.chains.into_inner().unwrap_or_default()
    }
}

/// What is remembered of deletions that were not done. By path on the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingDeletes {
    /// Since when each could have been deleted, nanoseconds since the Unix epoch.
    pub found: BTreeMap<TargetPath, i64>,
    /// Held by the last run, until the user allows it.
    pub held: BTreeMap<TargetPath, Bound>,
    /// What the user allowed, as it was then.
    pub allowed: BTreeMap<TargetPath, Bound>,
}

impl PendingDeletes {
    /// Whether the user allowed to delete this file as it is recorded now.
    pub fn allows(&self, path: &TargetPath, recorded: &Recorded) -> bool {
        self.allowed.get(path).is_some_and(|bound| bound.fits(recorded))
    }

    /// Every path that something is remembered of.
    pub fn paths(&self) -> BTreeSet<&TargetPath> {
        self.found.keys().chain(self.held.keys()).chain(self.allowed.keys()).collect()
    }
}

/// The one content that a user's word is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    pub size: u64,
    pub blake3: Option<[u8; 32]>,
    /// Decides where there is no digest.
    pub version: Option<String>,
}

impl Bound {
    pub fn of(recorded: &Recorded) -> Self {
        Self { size: recorded.size, blake3: recorded.blake3, version: recorded.target_version.clone() }
    }

    pub fn fits(&self, recorded: &Recorded) -> bool {
        let same = match (self.blake3, recorded.blake3) {
            (Some(then), Some(now)) => then == now,
            (then, now) => then == now && self.version == recorded.target_version,
        };
        same && self.size == recorded.size
    }
}
