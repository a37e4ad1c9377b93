//! One file per image format: recognised by name and header, giving identity and parent link.

use offsite_plugin_api::TargetPath;
use serde::{Deserialize, Serialize};

/// The product family whose files these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Qcow2,
    /// ActiveImage Protector, disk images (2018 and 2022 names) and file backups.
    ActiveImage,
    ShadowProtect,
    Macrium,
    /// Acronis True Image, .tib and .tibx.
    Acronis,
    Veeam,
    Virtnbdbackup,
    Vzdump,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageKind {
    Base,
    Incremental,
    Differential,
}

/// What one file is within its image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// The file that makes the image visible: its first part or descriptor.
    Anchor,
    /// A further part of a split image, from 2.
    Part(u32),
    /// Travels with its image (.md5, .chksum, .log, …).
    SideCar,
    /// Belongs to the set rather than to one image, and is published after everything else of it (Veeam's .vbm).
    SetFile,
    /// Written while a backup runs; never replicated (.partial, .spwb).
    InProgress,
}

/// How an image names its parent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Link {
    /// A base: depends on nothing.
    None,
    /// The header names the parent's file: its path relative to the source's root, already checked to stay inside.
    File(TargetPath),
    /// The header names a parent outside the source, or one no path can be made of: never present here.
    Outside(String),
    /// By position: the parent is the image of this set (and branch) with the next smaller number. `consolidated`:
    /// the name itself says that this image holds the ones before it, back to the highest that still exists.
    Number { branch: Vec<u64>, number: u64, consolidated: bool },
    /// By identity: `id` is this image's own, `parent` its parent's.
    Id { id: String, parent: Option<String> },
    /// The name gives no order; within the set, by modification time.
    Time,
    /// By the date in the name, which leaves no gap to see. `reverse`: the parent is the next later image instead of
    /// the next earlier one (Veeam's reverse increments).
    Moment { at: u64, reverse: bool },
}

/// What a format says about one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recognised {
    pub format: Format,
    /// Images of one set share it: the directory and what the format names the set by. Opaque.
    pub set: String,
    /// Files of one image share it within the set. Opaque.
    pub image: String,
    pub kind: ImageKind,
    pub role: Role,
    pub link: Link,
    /// Files that its header names as holding its content (a qcow2's external data file): they are parts of it.
    #[serde(default)]
    pub parts: Vec<TargetPath>,
    /// Something its header shows that a user should know (marked corrupt, not closed cleanly), in words.
    #[serde(default)]
    pub note: Option<String>,
}
