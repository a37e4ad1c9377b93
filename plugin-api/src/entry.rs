//! What a backend says about one file or directory on the target.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::TargetPath;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    File,
    Dir,
    /// Links, devices, anything else: reported, never followed.
    Other,
}

/// A time with the precision the server keeps: `ns` nanoseconds since the Unix epoch, exact to `precision_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    pub ns: i64,
    pub precision_ns: u64,
}

/// A content digest: lower-case algorithm name (`blake3`, `sha256`, `md5`, `crc64nvme`, …) and its raw bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    pub algorithm: String,
    pub value: Vec<u8>,
}

/// Until when the server refuses to delete or replace an object (S3 Object Lock and its like).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// The server's word: `GOVERNANCE`, `COMPLIANCE`, …
    pub mode: String,
    /// Seconds since the Unix epoch.
    pub until: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: TargetPath,
    pub kind: EntryKind,
    /// Bytes; 0 for directories.
    pub size: u64,
    pub mtime: Option<Timestamp>,
    /// Changes whenever the content may have changed (ETag, version id, inode and change time): opaque.
    pub version: Option<String>,
    /// Digests the server itself vouches for.
    pub digests: Vec<Digest>,
    pub retention: Option<Retention>,
    /// Storage class, in the server's words.
    pub class: Option<String>,
    pub extra: BTreeMap<String, String>,
}

impl Entry {
    pub fn file(path: TargetPath, size: u64) -> Self {
        Self {
            path,
            kind: EntryKind::File,
            size,
            mtime: None,
            version: None,
            digests: Vec::new(),
            retention: None,
            class: None,
            extra: BTreeMap::new(),
        }
    }

    pub fn dir(path: TargetPath) -> Self {
        Self { kind: EntryKind::Dir, ..Self::file(path, 0) }
    }
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// Handed back for the following page; `None` ends the listing.
    pub next: Option<Vec<u8>>,
    /// Directories of which this page leaves something out that may be there, and why, in words for the user. The host then
    /// takes nothing in them, or below them, for gone.
    pub incomplete: Vec<(TargetPath, String)>,
}

/// What a published file should carry beside its bytes; a backend applies what it can.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    pub mtime: Option<Timestamp>,
    pub retention: Option<Retention>,
    pub class: Option<String>,
    #[serde(default)]
    pub extra: BTreeMap<String, String>,
}
