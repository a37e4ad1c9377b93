//! The two-phase upload (stage, then publish or discard) and the streams it reads from and writes to.

use std::sync::Arc;

use crate::{Attributes, Digest, Result, TargetPath};

/// Bytes `offset .. offset + length` of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Range {
    pub offset: u64,
    pub length: u64,
}

impl Range {
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// Names one staged upload to the backend that made it: opaque to the host, at most 64 KiB, valid on another
/// machine with the same target too, and free of secrets (it is journalled).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Token(pub Vec<u8>);

impl Token {
    pub const MAX: usize = 64 * 1024;
}

/// What must be true of the name for a change to happen; otherwise `PreconditionFailed` (or `Exists` for
/// `Absent`) and nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing has that name.
    Absent,
    /// The entry has this version, as [`crate::Entry::version`] gave it.
    Version(String),
    /// Whatever is there, or nothing.
    Any,
}

/// What the host wants staged.
#[derive(Clone, Debug)]
pub struct StageRequest {
    /// Where it will be published.
    pub path: TargetPath,
    /// The full path for the staged bytes, in the directory of `path`; chosen by the host, fixed length. A backend
    /// whose server keeps uploads apart (S3) ignores it.
    pub staging: TargetPath,
    pub attributes: Attributes,
    /// Exact size in bytes.
    pub size: u64,
    /// How many ranges or parts may be in flight at once, at least 1.
    pub streams: u32,
    /// Who is staging; comes back from `list_staged`.
    pub owner: String,
    /// What an earlier call had staged; ranges it names need not be sent again.
    pub resume: Option<ResumeFrom>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeFrom {
    pub token: Token,
    /// Sorted, disjoint, not empty.
    pub ranges: Vec<Range>,
}

/// The result of a complete stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    pub token: Token,
    /// Bytes the server holds for it.
    pub size: u64,
    /// Digests the server gave while storing it.
    pub digests: Vec<Digest>,
}

/// A staged upload found on the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedInfo {
    pub token: Token,
    /// Where its bytes are or will be visible, as far as the backend knows.
    pub path: Option<TargetPath>,
    /// As given when it was staged; empty where the server cannot tell.
    pub owner: String,
    /// Bytes held.
    pub bytes: u64,
    /// Seconds since it last changed, by the server's clock where it has one.
    pub age: Option<u64>,
}

#[derive(Clone)]
pub struct PublishRequest {
    pub token: Token,
    pub path: TargetPath,
    pub expect: Expect,
    pub attributes: Attributes,
    /// Of the whole file, as the host computed them; a server that checks one refuses a mismatch.
    pub digests: Vec<Digest>,
    /// Exact size in bytes.
    pub size: u64,
    /// For backends that send a small object only now.
    pub source: Arc<dyn Source>,
}

/// A file or a staged upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Path(TargetPath),
    Staged(Token),
}

/// Random access to the bytes being sent; safe from several threads, and the same bytes at every call.
pub trait Source: Send + Sync {
    /// Bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset` and returns how many bytes were read: `buf.len()` unless the end comes first.
    /// Errors: `SourceChanged` where the file no longer holds what was read before.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize>;
}

/// Takes the bytes of a `get` or `read_staged`, in order.
pub trait Sink: Send + Sync {
    /// An error stops the transfer and is returned from it.
    fn write(&self, bytes: &[u8]) -> Result<()>;
}

/// The host's end of one staging.
pub trait Session: Send + Sync {
    /// Records that `ranges` (sorted, disjoint: everything staged so far, not only what is new) are held by the
    /// server under `token`. `durable`: a power cut at the server cannot lose them. May be called from any thread,
    /// one call at a time. Call it at least every 64 MiB or 5 s of acknowledged bytes. An error stops the staging.
    fn checkpoint(&self, token: &Token, ranges: &[Range], durable: bool) -> Result<()>;
}
