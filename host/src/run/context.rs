//! What every part of one target's run works with.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use offsite_plugin_api::{Backend, Call, Capabilities, Retry as Retryable, Source};

use super::call::Line;
use super::retry::{Again, Attempts};
use super::source_reader::{BlockCache, SourceReader, SourceRoot};
use super::verify::Method;
use crate::catalog::Catalog;
use crate::config::Retry;
use crate::error::{Error, Kind, Result};
use crate::report::Event;
use crate::source::SourceFile;
use crate::target::Site;

pub struct Context {
    pub backend: Arc<dyn Backend>,
    pub capabilities: Capabilities,
    pub catalog: Arc<Catalog>,
    pub line: Line,
    /// This machine's installation id.
    pub installation: String,
    pub retry: Retry,
    /// How staged files are proved before they are published.
    pub method: Method,
    /// The user asked for no more than sizes (`verify = "size"`).
    pub size_suffices: bool,
    /// Uploads at once, ranges of one file included.
    pub streams: u32,
    /// The configuration names that number: nothing goes beyond it.
    pub streams_fixed: bool,
    pub root: Arc<SourceRoot>,
    pub cache: Arc<BlockCache>,
    /// How often the target was lost sight of in this run: each time its server may have fallen over.
    pub interruptions: AtomicU64,
}

impl Context {
    /// Whether what was staged before an interruption, on a target without durable checkpoints, has to be read back
    /// block by block: the user wants more than sizes, and the proof alone would not look at every byte.
    pub fn proves_resumed(&self) -> bool {
        !self.size_suffices && !matches!(self.method, Method::ServerDigest(_) | Method::ReadBack)
    }

    pub fn interruptions(&self) -> u64 {
        self.interruptions.load(Ordering::Acquire)
    }

    pub fn site<'a>(&'a self, call: &'a Call) -> Site<'a> {
        Site {
            backend: &*self.backend,
            catalog: &self.catalog,
            capabilities: &self.capabilities,
            call,
            installation: &self.installation,
        }
    }

    pub fn open(&self, file: &SourceFile) -> offsite_plugin_api::Result<SourceReader> {
        SourceReader::open(&self.root, file, self.cache.clone())
    }

    /// Runs an act with the target's retries; `image`: what it is about.
    pub fn retried<T>(
        &self,
        image: Option<&str>,
        moved: &dyn Fn() -> u64,
        mut act: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let act = || {
            act().inspect_err(|error| {
                if interrupted(error) {
                    self.interruptions.fetch_add(1, Ordering::AcqRel);
                }
            })
        };
        retried(&self.line, self.retry, image, moved, act)
    }

    /// Whether a file of that size goes up with its publish, so that its bytes are done only then.
    pub fn sent_at_publish(&self, size: u64) -> bool {
        size <= self.capabilities.small_at_publish
    }

    /// A sign of life for long work of the host's own; `Stopped` when it should end.
    pub fn tick(&self, note: &str) -> offsite_plugin_api::Result<()> {
        self.line.meter.alive(&self.line.outbox, note);
        if self.line.stop.is_set() {
            let kind = offsite_plugin_api::ErrorKind::Cancelled;
            return Err(offsite_plugin_api::Error::new(kind, "stopped"));
        }
        Ok(())
    }
}

/// Whether the target's server may have fallen over and come back.
fn interrupted(error: &Error) -> bool {
    use offsite_plugin_api::ErrorKind::{Interrupted, Offline, TimedOut, Unreachable};
    let Kind::Backend(kind) = &error.kind else { return false };
    matches!(kind, Interrupted | Offline | TimedOut | Unreachable) || error.retry == Retryable::Now
}

/// As [`Context::retried`], before there is a context.
pub fn retried<T>(
    line: &Line,
    retry: Retry,
    image: Option<&str>,
    moved: &dyn Fn() -> u64,
    act: impl FnMut() -> Result<T>,
) -> Result<T> {
    let say = |error: &Error, again: &Again| {
        let image = image.map(str::to_owned);
        line.outbox.event(Event::retry(image, error, again.attempt, again.of, again.wait));
    };
    Attempts::new(retry).run(&line.stop, moved, &say, act)
}

/// A source file that is opened only when somebody reads it: for the few backends that send small objects with the
/// publish. Thousands of files may wait for their parent, so none of them stays open.
pub struct LazySource {
    root: Arc<SourceRoot>,
    cache: Arc<BlockCache>,
    file: SourceFile,
    /// Of the whole file, as it was staged and is recorded.
    blake3: [u8; 32],
    /// Once it was found to be what was staged. An error is not kept: the next attempt opens it again.
    opened: Mutex<Option<Arc<SourceReader>>>,
}

impl LazySource {
    pub fn new(root: Arc<SourceRoot>, cache: Arc<BlockCache>, file: SourceFile, blake3: [u8; 32]) -> Self {
        Self { root, cache, file, blake3, opened: Mutex::new(None) }
    }

    /// The file, hashed whole and found to be what was staged; its reader compares every later read with that.
    fn reader(&self) -> offsite_plugin_api::Result<Arc<SourceReader>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = &*opened {
            return Ok(reader.clone());
        }
        let reader = SourceReader::open(&self.root, &self.file, self.cache.clone())?;
        if reader.complete(&|| Ok(()))? != self.blake3 {
            let kind = offsite_plugin_api::ErrorKind::SourceChanged;
            let error = offsite_plugin_api::Error::new(kind, "the source file changed since it was read");
            return Err(error.with_context("path", self.file.path.display()));
        }
        Ok(opened.insert(Arc::new(reader)).clone())
    }
}

impl Source for LazySource {
    fn size(&self) -> u64 {
        self.file.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> offsite_plugin_api::Result<usize> {
        self.reader()?.read_at(offset, buf)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use offsite_plugin_api::{ErrorKind, TargetPath};

    use super::*;

    #[test]
    fn what_is_sent_with_the_publish_is_what_was_staged_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("a.md5");
        std::fs::write(&at, b"the staged content").unwrap();
        let root = std::fs::metadata(dir.path()).unwrap();
        let root = Arc::new(SourceRoot::open(dir.path(), root.dev(), root.ino()).unwrap());
        let seen = || {
            let meta = std::fs::metadata(&at).unwrap();
            SourceFile {
                path: TargetPath::new("a.md5").unwrap(),
                size: meta.len(),
                mtime_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
                ctime_ns: meta.ctime() * 1_000_000_000 + meta.ctime_nsec(),
                device: meta.dev(),
                inode: meta.ino(),
                recognised: None,
            }
        };
        let hash = *blake3::hash(b"the staged content").as_bytes();
        let mut buf = [0; 64];
        let read = |source: &LazySource, buf: &mut [u8]| source.read_at(0, buf).map(|n| buf[..n].to_vec());

        // Rewritten in place since it was hashed: everything that a stat shows is as expected, the content is not.
        std::fs::write(&at, b"THE STAGED CONTENT").unwrap();
        let lazy = LazySource::new(root.clone(), Arc::default(), seen(), hash);
        let error = read(&lazy, &mut buf).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::SourceChanged);

        // An error that passes is not kept for the next attempt.
        std::fs::write(&at, b"the staged content").unwrap();
        let lazy = LazySource::new(root, Arc::default(), seen(), hash);
        std::fs::rename(&at, dir.path().join("away")).unwrap();
        assert!(read(&lazy, &mut buf).is_err());
        std::fs::rename(dir.path().join("away"), &at).unwrap();
        let lazy = LazySource { file: seen(), ..lazy };
        assert_eq!(read(&lazy, &mut buf).unwrap(), b"the staged content");
    }
}
