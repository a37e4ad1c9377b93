//! A target as the planner sees it: plain values, gathered by the worker from listing, manifest and catalog.

use std::collections::BTreeMap;

use offsite_plugin_api::{Entry, TargetPath, Timestamp};
use serde::{Deserialize, Serialize};

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
    pub recorded: Option<Recorded>,
    /// From the listing name or the header read back; `None` where the record's holds.
    pub recognised: Option<Box<Recognised>>,
}

impl TargetFile {
    /// What is known of it now: from its name or the header read back, else what was recorded.
    pub fn recognised(&self) -> Option<&Recognised> {
        self.recognised.as_deref().or_else(|| self.recorded.as_ref().and_then(|r| r.recognised.as_ref()))
    }
}

/// Everything the planner knows of a target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetView {
    /// By path; the host's own names (staging, marker, manifests) left out.
    pub files: BTreeMap<TargetPath, TargetFile>,
    /// Recorded as published, but not in the listing any more.
    pub gone: BTreeMap<TargetPath, Recorded>,
    /// Assembled from `files`, spans and evidence included.
    pub chains: Chains,
    /// Images whose span the user accepted (`offsite target accept`).
    pub accepted: Vec<TargetPath>,
    /// Spans that manifests record: image -> (first, last).
    pub spans: BTreeMap<TargetPath, crate::chain::Span>,
    /// What a run would settle first (open intents, swaps), in words.
    pub open: Vec<String>,
}
