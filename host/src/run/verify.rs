//! Which level of verification a target gets, and the proof itself.
//!
//! Levels, weakest first: size (the server holds as many bytes), sampled (head, tail, every place where the transfer was
//! taken up again, and random blocks, read back and compared with the hashes of what was sent), digest (the server's
//! own digest of all bytes, or one it checked for every part it received), read-back (every byte). `auto` takes the
//! server's BLAKE3 where it has that, else samples, else the checked parts; other digests of a server only where the
//! configuration asks for one. A level that the target cannot give is a configuration error, found before anything is sent.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use offsite_plugin_api::{
    Capabilities, Error as BackendError, ErrorKind, Object, Range, Sink, StagedInfo, TargetPath, Token,
};

use super::blocks::{BlockHash, Layout};
use super::call::{LONG, Line};
use super::digest::{self, Algorithm};
use super::retry::chance;
use super::source_reader::SourceReader;
use crate::config::Verify;
use crate::error::{Error, Kind, Result};
use crate::target::{VerifyLevel, Whole};

/// The digest that the host has of every file anyway.
const OURS: &str = "blake3";
/// Blocks read back beside head, tail and boundaries.
const RANDOM: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Size,
    Sampled,
    /// Asked of the server after the upload.
    ServerDigest(Algorithm),
    /// The server checked a digest of each part while it received it.
    CheckedParts,
    ReadBack,
}

impl Method {
    pub fn level(self) -> VerifyLevel {
        match self {
            Self::Size => VerifyLevel::Size,
            Self::Sampled => VerifyLevel::Sampled,
            Self::ServerDigest(_) | Self::CheckedParts => VerifyLevel::Digest,
            Self::ReadBack => VerifyLevel::ReadBack,
        }
    }
}

/// The method for what the configuration asks. Errors: `Config` for a level that this target cannot give.
pub fn choose(wanted: Verify, capabilities: &Capabilities) -> Result<Method> {
    let server = Algorithm::best(&capabilities.digests);
    let ours = server.filter(|algorithm| *algorithm == Algorithm::Blake3);
    let checked = !capabilities.checked_digests.is_empty();
    let readable = capabilities.staged_readable;
    let refuse = |level: &str, why: &str| {
        Err(Error::new(Kind::Config, format!("verify = \"{level}\" is not possible on this target"))
            .because(why)
            .hint("use verify = \"auto\""))
    };
    let unreadable = "staged bytes cannot be read back from its server before they are published";
    match wanted {
        Verify::Size => Ok(Method::Size),
        Verify::Sampled if readable => Ok(Method::Sampled),
        Verify::Sampled => refuse("sampled", unreadable),
        Verify::ReadBack if readable => Ok(Method::ReadBack),
        Verify::ReadBack => refuse("read-back", unreadable),
        Verify::Digest => match (ours, server) {
            (Some(ours), _) => Ok(Method::ServerDigest(ours)),
            (None, _) if checked => Ok(Method::CheckedParts),
            (None, Some(other)) => Ok(Method::ServerDigest(other)),
            (None, None) => {
                refuse("digest", "its server neither computes nor checks a digest that offsite knows")
            }
        },
        Verify::Auto => Ok(match ours {
            Some(ours) => Method::ServerDigest(ours),
            None if readable => Method::Sampled,
            None if checked => Method::CheckedParts,
            None => Method::Size,
        }),
    }
}

/// Everything about a complete staging that is to be proved.
pub struct Proof<'a> {
    pub backend: &'a dyn offsite_plugin_api::Backend,
    pub line: &'a Line,
    pub token: &'a Token,
    pub reader: &'a Arc<SourceReader>,
    /// Of the whole source file.
    pub blake3: [u8; 32],
    /// Offsets where the transfer was taken up again.
    pub boundaries: &'a [u64],
    /// Blocks that the server may have lost since they were staged; sorted.
    pub doubtful: &'a [u64],
    /// Ranges that may be read back at once.
    pub streams: u32,
}

impl Proof<'_> {
    /// Compares what is staged with what was read. Errors: `Verify` when it differs; the backend's own otherwise.
    pub fn prove(&self, method: Method) -> Result<VerifyLevel> {
        let layout = self.reader.layout();
        if matches!(method, Method::Size) {
            let call = self.line.call(Some(LONG));
            let info: StagedInfo = self.backend.stat_staged(&call, self.token)?;
            self.size(info.bytes)?;
        }
        if let Method::ServerDigest(algorithm) = method {
            let object = Object::Staged(self.token.clone());
            if !digest::same(self.backend, self.line, &object, algorithm, self.reader, self.blake3)? {
                return Err(differs("the server's digest of the staged file is not the source's"));
            }
        }
        let mut blocks = match method {
            Method::Sampled => sample(layout, self.boundaries),
            Method::ReadBack => (0..layout.count()).collect(),
            _ => Vec::new(),
        };
        blocks.extend(self.doubtful);
        blocks.sort_unstable();
        blocks.dedup();
        self.read_back(&layout.ranges_of(blocks))?;
        Ok(method.level())
    }

    /// Several at once: each waits for a far server. The first error ends the others after what they have begun.
    fn read_back(&self, ranges: &[Range]) -> Result<()> {
        let next = AtomicUsize::new(0);
        let read = || -> Result<()> {
            while let Some(range) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.compare(*range).inspect_err(|_| next.store(ranges.len(), Ordering::Relaxed))?;
            }
            Ok(())
        };
        let more = (self.streams as usize).clamp(1, ranges.len().max(1)) - 1;
        std::thread::scope(|scope| {
            let start = |n| std::thread::Builder::new().name(format!("verify-{n}")).spawn_scoped(scope, read);
            // Without them the calling thread reads everything.
            let helpers: Vec<_> = (0..more).filter_map(|n| start(n).ok()).collect();
            let first = read();
            let all = helpers.into_iter().map(|h| h.join().unwrap_or_else(|panic| resume_unwind(panic)));
            all.fold(first, Result::and)
        })
    }

    fn compare(&self, range: Range) -> Result<()> {
        let reader = self.reader.clone();
        let sink = Arc::new(Compare::new(self.reader.layout(), range, move |i| reader.value(i)));
        let (call, _) = self.line.sending_unseen();
        self.backend.read_staged(&call, self.token, range, sink.clone()).map_err(verdict)?;
        sink.finish()
    }

    fn size(&self, held: u64) -> Result<()> {
        let size = self.reader.layout().size;
        if held == size {
            return Ok(());
        }
        Err(differs(&format!("the server holds {held} bytes instead of {size}")))
    }
}

fn differs(why: &str) -> Error {
    Error::new(Kind::Verify, "what the target holds is not what was read from the source").because(why)
}

/// An error that our own sink made is a verdict, not the backend's failure.
fn verdict(error: BackendError) -> Error {
    if matches!(error.kind(), ErrorKind::Corrupt) { differs(&error.to_string()) } else { error.into() }
}

/// The blocks to sample: sorted, each once.
fn sample(layout: Layout, boundaries: &[u64]) -> Vec<u64> {
    let count = layout.count();
    if count == 0 {
        return Vec::new();
    }
    let mut blocks = vec![0, count - 1];
    for offset in boundaries {
        let at = layout.index(*offset);
        blocks.extend([at.saturating_sub(1), at.min(count - 1)]);
    }
    blocks.extend((0..RANDOM).map(|_| ((chance() * count as f64) as u64).min(count - 1)));
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

/// Takes the bytes of a range of whole blocks and compares each block's value.
pub struct Compare<F> {
    layout: Layout,
    end: u64,
    expected: F,
    state: Mutex<(u64, blake3::Hasher)>,
}

impl<F: Fn(u64) -> Option<BlockHash> + Send + Sync> Compare<F> {
    /// `range`: begins and ends at a block's border (or the file's end). `expected`: a block's value.
    pub fn new(layout: Layout, range: Range, expected: F) -> Self {
        let hasher = layout.hasher(layout.index(range.offset));
        Self { layout, end: range.end(), expected, state: Mutex::new((range.offset, hasher)) }
    }

    /// Errors: `Verify` when bytes are missing.
    pub fn finish(&self) -> Result<()> {
        let at = self.state.lock().unwrap_or_else(PoisonError::into_inner).0;
        if at == self.end { Ok(()) } else { Err(differs(&format!("it ends at byte {at}"))) }
    }
}

impl<F: Fn(u64) -> Option<BlockHash> + Send + Sync> Sink for Compare<F> {
    fn write(&self, mut bytes: &[u8]) -> offsite_plugin_api::Result<()> {
        let corrupt = |why: String| Err(BackendError::new(ErrorKind::Corrupt, why));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !bytes.is_empty() {
            let at = state.0;
            if at >= self.end {
                return corrupt(format!("there are bytes after byte {at}"));
            }
            let index = self.layout.index(at);
            let left = self.layout.range(index).end() - at;
            let (now, rest) = bytes.split_at(bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            state.1.update(now);
            state.0 += now.len() as u64;
            bytes = rest;
            if now.len() as u64 == left {
                if (self.expected)(index) != Some(self.layout.value(&state.1)) {
                    let range = self.layout.range(index);
                    return corrupt(format!("bytes {} to {} differ", range.offset, range.end()));
                }
                if state.0 < self.layout.size {
                    state.1 = self.layout.hasher(index + 1);
                }
            }
        }
        Ok(())
    }
}

/// Whether the published file is, byte for byte, the one of this hash: asked of the server where it has our digest, else
/// read back. `None`: it differs.
pub fn published(
    backend: &dyn offsite_plugin_api::Backend,
    line: &Line,
    capabilities: &Capabilities,
    path: &TargetPath,
    size: u64,
    blake3: [u8; 32],
) -> Result<Option<VerifyLevel>> {
    if capabilities.digests.iter().any(|d| d == OURS) {
        let digest = backend.digest(&line.call(Some(LONG)), &Object::Path(path.clone()), OURS, None)?;
        return Ok((digest.algorithm == OURS && digest.value == blake3).then_some(VerifyLevel::Digest));
    }
    let sink = Arc::new(Whole::default());
    let (call, _) = line.sending_unseen();
    backend.get(&call, path, None, None, sink.clone())?;
    Ok(sink.is(size, Some(blake3)).then_some(VerifyLevel::ReadBack))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities(digests: &[&str], checked: &[&str], staged_readable: bool) -> Capabilities {
        let own = |d: &[&str]| d.iter().map(|d| (*d).to_owned()).collect();
        Capabilities {
            digests: own(digests),
            checked_digests: own(checked),
            staged_readable,
            ..Capabilities::default()
        }
    }

    #[test]
    fn levels_follow_what_the_target_can_give() {
        let folder = capabilities(&[], &[], true);
        let agent = capabilities(&["sha256", "blake3"], &[], true);
        let s3 = capabilities(&[], &["crc64nvme"], false);
        let bare = capabilities(&["md5"], &[], false);
        let crc = capabilities(&["crc32"], &[], true);
        let cases = [
            (Verify::Auto, &folder, Some(Method::Sampled)),
            (Verify::Auto, &agent, Some(Method::ServerDigest(Algorithm::Blake3))),
            (Verify::Auto, &s3, Some(Method::CheckedParts)),
            (Verify::Auto, &bare, Some(Method::Size)),
            (Verify::ReadBack, &folder, Some(Method::ReadBack)),
            (Verify::ReadBack, &s3, None),
            (Verify::Sampled, &s3, None),
            (Verify::Digest, &folder, None),
            (Verify::Digest, &crc, None),
            (Verify::Digest, &agent, Some(Method::ServerDigest(Algorithm::Blake3))),
            (Verify::Digest, &bare, Some(Method::ServerDigest(Algorithm::Md5))),
            (Verify::Digest, &s3, Some(Method::CheckedParts)),
            (Verify::Size, &bare, Some(Method::Size)),
        ];
        for (wanted, caps, method) in cases {
            assert_eq!(choose(wanted, caps).ok(), method, "{wanted:?} {caps:?}");
        }
        assert_eq!(choose(Verify::ReadBack, &s3).unwrap_err().kind, Kind::Config);
    }

    #[test]
    fn samples_hold_head_tail_and_every_boundary() {
        let layout = Layout { size: 100 * 1024 + 5, block: 1024 };
        let blocks = sample(layout, &[50 * 1024, 70 * 1024 + 3]);
        for wanted in [0, 100, 49, 50, 69, 70] {
            assert!(blocks.contains(&wanted), "{wanted} in {blocks:?}");
        }
        assert!(blocks.windows(2).all(|w| w[0] < w[1]) && *blocks.last().unwrap() < layout.count());
        assert!(sample(Layout { size: 0, block: 1024 }, &[]).is_empty());
        assert_eq!(sample(Layout { size: 7, block: 1024 }, &[0]), [0]);
    }

    #[test]
    fn one_flipped_missing_or_added_byte_is_found() {
        let layout = Layout { size: 5000, block: 2048 };
        let data: Vec<u8> = (0..5000u32).map(|i| (i * 7) as u8).collect();
        let values: Vec<_> = (0..layout.count())
            .map(|i| {
                let r = layout.range(i);
                layout.hash_block(i, &data[r.offset as usize..r.end() as usize])
            })
            .collect();
        let all = Range { offset: 0, length: 5000 };
        let check = |bytes: &[u8], range: Range| {
            let expected = values.clone();
            let sink = Compare::new(layout, range, move |i| expected.get(i as usize).copied());
            bytes.chunks(700).try_for_each(|c| sink.write(c)).map_err(verdict).and_then(|()| sink.finish())
        };
        assert!(check(&data, all).is_ok());
        assert!(check(&data[2048..4096], Range { offset: 2048, length: 2048 }).is_ok());
        for at in [0, 2047, 2048, 4999] {
            let mut wrong = data.clone();
            wrong[at] ^= 1;
            assert_eq!(check(&wrong, all).unwrap_err().kind, Kind::Verify, "{at}");
        }
        assert!(check(&data[..4999], all).is_err());
        let mut longer = data.clone();
        longer.push(0);
        assert!(check(&longer, all).is_err());
    }
}
