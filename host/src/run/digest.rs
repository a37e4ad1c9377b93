//! Digests that a server computes of a whole file, and the same of the source.
//!
//! BLAKE3 the host has of every file anyway: its blocks' values merge. The others do not merge, so the source is read a
//! second time for them, block by block and each compared with what was read before. Only a configuration that asks
//! for the server's digest pays that.

use std::sync::Arc;

use md5::Md5;
use offsite_plugin_api::{Backend, Object};
use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Sha256, Sha512};

use super::call::{LONG, Line};
use super::source_reader::SourceReader;
use crate::error::Result;

/// Digests of whole files, the one preferred first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Blake3,
    Sha256,
    Sha512,
    Sha1,
    Md5,
}

impl Algorithm {
    const ALL: [Self; 5] = [Self::Blake3, Self::Sha256, Self::Sha512, Self::Sha1, Self::Md5];

    /// As the plugin contract names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Sha1 => "sha1",
            Self::Md5 => "md5",
        }
    }

    /// The best of those that a server computes.
    pub fn best(offered: &[String]) -> Option<Self> {
        Self::ALL.into_iter().find(|known| offered.iter().any(|name| name == known.name()))
    }

    fn hasher(self) -> Option<Box<dyn DynDigest>> {
        Some(match self {
            Self::Blake3 => return None,
            Self::Sha256 => Box::new(Sha256::default()),
            Self::Sha512 => Box::new(Sha512::default()),
            Self::Sha1 => Box::new(Sha1::default()),
            Self::Md5 => Box::new(Md5::default()),
        })
    }
}

/// Whether the server's digest is the source's; the source is read while the server computes. `blake3`: of the source.
pub fn same(
    backend: &dyn Backend,
    line: &Line,
    object: &Object,
    algorithm: Algorithm,
    reader: &Arc<SourceReader>,
    blake3: [u8; 32],
) -> Result<bool> {
    let (reading, counted) = line.sending_unseen();
    let ours = move || -> offsite_plugin_api::Result<Vec<u8>> {
        let Some(mut hasher) = algorithm.hasher() else { return Ok(blake3.to_vec()) };
        reader.each_block(&mut |bytes| {
            hasher.update(bytes);
            reading.acked(bytes.len() as u64);
            reading.proceed()
        })?;
        Ok(hasher.finalize().into_vec())
    };
    let (ours, theirs) = std::thread::scope(|scope| {
        let ours = scope.spawn(ours);
        let theirs = backend.digest(&line.call(Some(LONG)), object, algorithm.name(), None);
        if theirs.is_err() {
            counted.cancel();
        }
        (ours.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), theirs)
    });
    let (theirs, ours) = (theirs?, ours?);
    Ok(theirs.algorithm == algorithm.name() && theirs.value == ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_known_is_taken_and_each_is_the_published_one() {
        let best = |offered: &[&str]| Algorithm::best(&offered.iter().map(|&o| o.into()).collect::<Vec<_>>());
        assert_eq!(best(&["md5", "sha512", "sha1"]), Some(Algorithm::Sha512));
        assert_eq!(best(&["crc32", "sha256", "blake3"]), Some(Algorithm::Blake3));
        assert_eq!(best(&["crc32", "SHA256"]), None);
        // Of no bytes: FIPS 180-4, RFC 1321.
        for (algorithm, begins) in [
            (Algorithm::Sha256, "e3b0c44298fc1c14"),
            (Algorithm::Sha512, "cf83e1357eefb8bd"),
            (Algorithm::Sha1, "da39a3ee5e6b4b0d"),
            (Algorithm::Md5, "d41d8cd98f00b204"),
        ] {
            assert!(hex::encode(algorithm.hasher().unwrap().finalize()).starts_with(begins), "{algorithm:?}");
        }
        assert!(Algorithm::Blake3.hasher().is_none());
    }
}
