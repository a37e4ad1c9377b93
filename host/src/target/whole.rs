//! Whether a published file is, byte for byte, what was staged: by the server's digest where it computes ours, else by
//! reading all of it. A size or a time proves nothing of bytes that a server acknowledged and may have lost.

use std::sync::{Arc, Mutex, PoisonError};

use offsite_plugin_api::{Object, Range, Sink, TargetPath};

use super::Site;
use crate::error::Result;

/// The digest that the host has of every file.
const OURS: &str = "blake3";

/// Bytes read in one call, so that each has the whole time of an operation, however large the file is.
const PIECE: u64 = 64 << 20;

/// Hashes a whole file of the target.
#[derive(Default)]
pub struct Whole(Mutex<(u64, blake3::Hasher)>);

impl Whole {
    /// Whether what came is, byte for byte, the file of this size and hash.
    pub fn is(&self, size: u64, blake3: Option<[u8; 32]>) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 == size && blake3 == Some(*state.1.finalize().as_bytes())
    }
}

impl Sink for Whole {
    fn write(&self, bytes: &[u8]) -> offsite_plugin_api::Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += bytes.len() as u64;
        state.1.update(bytes);
        Ok(())
    }
}

/// Whether the file at `path` has this size and hash. Without a hash there is nothing to compare with: it has not.
/// Errors: the backend's; nothing is known then.
pub(super) fn is(site: &Site<'_>, path: &TargetPath, size: u64, blake3: Option<[u8; 32]>) -> Result<bool> {
    if site.capabilities.digests.iter().any(|d| d == OURS) {
        let digest = site.backend.digest(site.call, &Object::Path(path.clone()), OURS, None)?;
        return Ok(digest.algorithm == OURS && blake3.is_some_and(|b| digest.value == b));
    }
    let sink = Arc::new(Whole::default());
    let mut offset = 0;
    while offset < size {
        let range = Range { offset, length: PIECE.min(size - offset) };
        site.backend.get(site.call, path, Some(range), None, sink.clone())?;
        offset += range.length;
    }
    Ok(sink.is(size, blake3))
}
