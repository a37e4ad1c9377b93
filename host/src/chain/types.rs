//! The words of the chain model.

use offsite_plugin_api::TargetPath;
use serde::{Deserialize, Serialize};

use crate::format::{Format, ImageKind, Role};

/// The run of increments that one image holds, by number, inclusive; `first < last` for a consolidated image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    pub first: u64,
    pub last: u64,
}

/// What proves a span longer than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// The image's own header names an earlier ancestor as its parent.
    Header,
    /// The file's name says that it is consolidated.
    Name,
    /// The target's manifest.
    Manifest,
    /// The catalog: the missing run is contiguous, the base unchanged, this image changed after our publish.
    Catalog,
    /// The user accepted it.
    Accepted,
}

/// One file of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFile {
    pub path: TargetPath,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since the Unix epoch, where known.
    pub mtime_ns: Option<i64>,
    pub role: Role,
}

/// Where an image's content continues downward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Parent {
    /// A base.
    None,
    /// The image of this set with that index.
    Image(usize),
    /// It should exist and does not; in words (`increment 2`, `the file 'base.qcow2'`).
    Missing(String),
    /// Following parents leads back here.
    Cycle,
}

/// One restore point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The anchor's path relative to the root: the image's identity, stable when its content is consolidated.
    pub id: TargetPath,
    pub format: Format,
    pub kind: ImageKind,
    /// Position in its branch, where the name gives one.
    pub number: Option<u64>,
    /// `None` where numbers do not apply.
    pub span: Option<Span>,
    pub evidence: Option<Evidence>,
    pub parent: Parent,
    /// In the order of publishing: side-cars and parts first, the anchor last. Never empty.
    pub files: Vec<ImageFile>,
    /// Whether every ancestor and every part is present.
    pub restorable: bool,
    /// A closed format's span that only the catalog supports: `consolidated, unproven`; or it builds on such an image.
    pub unproven: bool,
    /// Says what is missing when not restorable, in words.
    pub missing: Option<String>,
}

impl Image {
    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }
}

/// A base and everything that descends from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSet {
    /// Stable name of the set, the same at the source and on a target; opaque.
    pub id: String,
    pub format: Format,
    /// Ancestors before descendants; ties by number, then path.
    pub images: Vec<Image>,
    /// Files of the set as a whole; published after every image of it.
    pub set_files: Vec<ImageFile>,
}

/// A file that belongs to no image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    pub file: ImageFile,
    /// `not recognised`, `a side-car without its image`, …
    pub reason: String,
}

/// Something a user should know about the chains: a gap, an orphan, a cycle, two files claiming one identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub set: String,
    pub image: TargetPath,
    pub what: String,
    /// Nothing but ancestors is missing: no fault where a consolidated image holds them.
    #[serde(default)]
    pub gap: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chains {
    /// Sorted by id.
    pub sets: Vec<ImageSet>,
    /// Sorted by path.
    pub others: Vec<Other>,
    pub problems: Vec<Problem>,
}
