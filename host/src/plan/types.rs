//! The words of the planner.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use offsite_plugin_api::TargetPath;
use serde::{Deserialize, Serialize};

use crate::chain::Span;
use crate::format::{Format, ImageKind};
use crate::notice::Notice;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Copy,
    Replace,
    Delete,
    Skip,
}

/// Why, for machines: stable, kebab-case in JSON. `plan` documents each; add as rules need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// Not on the target.
    New,
    /// The target's file is the source's.
    UpToDate,
    /// The source changed since it was published.
    Changed,
    /// The target's file is damaged or was changed by somebody else.
    Damaged,
    /// On the target without a record: read back and adopted when it matches.
    Adopt,
    /// Held by a consolidated image of the target.
    Covered,
    /// The target's own consolidated image is kept.
    Consolidated,
    /// As `Covered` or `Consolidated`, supported by the catalog only.
    Unproven,
    /// Changed at the source, where images that it may hold now are gone, and nothing proves that it holds them; or one of
    /// those.
    ChangedUnproven,
    /// The source's file is empty, or does not begin as its format does.
    NotAnImage,
    /// Gone at the source for two scans (sync).
    GoneAtSource,
    /// Its whole set is gone at the source, and a newer set of the same lineage takes its place (sync).
    Rotated,
    /// As `Rotated`, but deleted before the newer set is published, to make room: the user asked for it.
    DeleteFirst,
    /// To be deleted, but not before `delete_after` is over.
    DeleteLater,
    /// Gone at the source, kept until the user allows it: it is the last that is restorable of its lineage, or nothing
    /// of the target is at the source any more.
    Held,
    /// Gone at the source, kept: the options do not delete.
    Kept,
    /// Gone at the source, but a rule forbids deleting it now.
    Protected,
    /// Above `max_delete`.
    OverDeleteLimit,
    /// Left out by the filter.
    Filtered,
    /// Left out by the policy.
    BeforeBaseline,
    /// Still being written, or another reason in the source.
    NotSettled,
    /// It is there and cannot be read.
    Unreadable,
    /// No format knows it.
    NotRecognised,
    /// The target cannot hold it (name, size).
    Refused,
    /// The server keeps it until a lock ends.
    Retained,
    /// Whether the target (still) has it is not known: its listing leaves something out.
    Unknown,
    /// Waits for an ancestor that cannot be there yet.
    Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileAction {
    Copy,
    Replace,
    Delete,
    /// Compare with what is there, record it, send nothing; where it differs, send it as `Replace` would. Where the
    /// record has a digest and the target's entry is as recorded, the source is hashed and compared with that;
    /// otherwise the target's file is read back and compared with the source.
    Adopt,
    Keep,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStep {
    pub action: FileAction,
    /// Relative to the source's root.
    pub path: TargetPath,
    /// Relative to the target's root (differs by the policy's sub-folder).
    pub target: TargetPath,
    /// Bytes to send (copy, replace), compare (adopt) or free (delete).
    pub bytes: u64,
}

/// One action on one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub action: Action,
    /// The anchor's path relative to the source's root.
    pub image: TargetPath,
    /// The set's id at the source; empty for a file that belongs to none.
    #[serde(with = "shared_text")]
    pub set: Arc<str>,
    pub format: Option<Format>,
    /// Bytes this step sends (copy, replace) or frees (delete); 0 for a skip.
    pub bytes: u64,
    pub code: Code,
    /// One sentence.
    pub reason: Cow<'static, str>,
    /// In the order of publishing (deleting); empty for most skips. A skip's files are only ever `Adopt` or `Keep`.
    pub files: Vec<FileStep>,
    /// Steps (indices into the plan) that must be complete before this one publishes or deletes.
    pub after: Vec<usize>,
    /// Copied as asked, but its ancestors are left out by the user's filter or policy, or the source lacks them.
    pub not_restorable: bool,
    /// The run of increments this image holds, where it is more than one and the plan knows it: to be recorded in the
    /// manifest, because a closed format does not show it.
    pub span: Option<Span>,
    /// Steps with one number are staged and verified together and published under one intent.
    pub group: Option<u32>,
    /// With a copy or a replacement: what it may have absorbed at the source, to be proved by its own transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge: Option<Merge>,
    /// With a deletion: the step whose replacement must prove that it holds this image. Otherwise it is not deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<usize>,
    /// The anchor on the target of the image that this one builds on, where the plan knows it: to be recorded with its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TargetPath>,
    /// The source merged other images into this one: it holds the restore point that it held, and what builds on it stays valid.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub merged: bool,
    /// With files that are compared: why what differs is not sent in this run, as a clause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compare_only: Option<String>,
}

/// Images that the source no longer has, and that an image of the source may hold now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merge {
    /// Their anchors on the target. None where the target had merged them already.
    pub images: Vec<TargetPath>,
    pub sign: Sign,
}

/// What says that an image absorbed others, beside a content that is not the recorded one. Without a sign, or with the
/// same content, nothing is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sign {
    /// Its header names their parent as its own.
    Header,
    /// Its name says so, and its size can hold them.
    Name,
    /// A closed format: its size can hold them, and its first bytes must be its format's.
    Head,
    /// The user accepts whatever the source consolidates.
    Accepted,
    /// None: it is too small, or nothing is recorded that it could be compared with.
    Missing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub copy: u64,
    pub replace: u64,
    pub delete: u64,
    pub skip: u64,
    /// Bytes to send.
    pub bytes: u64,
}

/// A step's set: text shared by all steps of the set.
mod shared_text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Arc::from)
    }
}

/// Steps in an order whose every prefix keeps the laws; a step's `after` allows more in parallel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub notices: Vec<Notice>,
    pub totals: Totals,
    #[serde(default)]
    pub remember: Remember,
    /// Images that stay as they are and whose records do not say what they build on, and what they build on at the
    /// source: anchors on the target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<(TargetPath, TargetPath)>,
}

/// What a run is to remember of deletions that it does not do yet. Paths on the target: anchors, and files of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remember {
    /// Could be deleted now, for the first time: `delete_after` counts from this run.
    pub found: Vec<TargetPath>,
    /// Held until the user allows it.
    pub held: Vec<TargetPath>,
    /// Gone from the target, or at the source again: what was remembered of them ends.
    pub dropped: Vec<TargetPath>,
}

/// Whether old sets go before new ones are copied, because there is no room for both: a declared exception to law 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeleteFirst {
    #[default]
    No,
    /// Where another set of the lineage stays restorable meanwhile.
    Proved,
    /// Also the last one.
    Last,
}

/// What the user leaves out. Empty means everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    pub kinds: Vec<ImageKind>,
    pub formats: Vec<Format>,
    /// Globs on the anchor's path relative to the source.
    pub include: Vec<String>,
    pub exclude: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    NewImages,
    NewSets,
}

/// A target's planning options, resolved and validated (sync with filter or policy was refused in `config`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    pub sync: bool,
    pub filter: Filter,
    pub policy: Option<Policy>,
    /// `{job} {host} {set} {date}` already known to be the only placeholders.
    pub subfolder: Option<String>,
    /// Share of managed images, 0 to 1; of managed other files likewise.
    pub max_delete: f64,
    /// `--allow-deletes` for this run.
    pub allow_deletes: bool,
    pub include_other: bool,
    /// Accept catalog-only evidence of a consolidation.
    pub accept_unproven: bool,
    #[serde(default)]
    pub delete_first: DeleteFirst,
    /// How long what could be deleted stays, nanoseconds.
    #[serde(default)]
    pub delete_after_ns: i64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sync: false,
            filter: Filter::default(),
            policy: None,
            subfolder: None,
            max_delete: 0.25,
            allow_deletes: false,
            include_other: false,
            accept_unproven: false,
            delete_first: DeleteFirst::No,
            delete_after_ns: 0,
        }
    }
}

/// The identities present when a policy took effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    pub images: BTreeSet<TargetPath>,
    /// When it was taken, nanoseconds since the Unix epoch: for people.
    pub taken_ns: i64,
}
