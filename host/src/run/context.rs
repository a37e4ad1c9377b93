//! What every part of one target's run works with.

use std::sync::{Arc, OnceLock};

use offsite_plugin_api::{Backend, Call, Capabilities, Source};

use super::call::Line;
use super::meter::bounded;
use super::retry::{Again, Attempts};
use super::source_reader::{BlockCache, SourceReader, SourceRoot};
use super::verify::Method;
use crate::catalog::Catalog;
use crate::config::Retry;
use crate::error::{Error, Result};
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
    /// Uploads at once, ranges of one file included.
    pub streams: u32,
    pub root: Arc<SourceRoot>,
    pub cache: Arc<BlockCache>,
}

impl Context {
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
        act: impl FnMut() -> Result<T>,
    ) -> Result<T> {
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

/// As [`Context::retried`], before there is a context.
pub fn retried<T>(
    line: &Line,
    retry: Retry,
    image: Option<&str>,
    moved: &dyn Fn() -> u64,
    act: impl FnMut() -> Result<T>,
) -> Result<T> {
    let say = |error: &Error, again: &Again| {
        line.outbox.event(Event::Retry {
            image: image.map(str::to_owned),
            error: bounded(&error.to_string()),
            attempt: again.attempt,
            of: again.of,
            wait_ms: u64::try_from(again.wait.as_millis()).unwrap_or(u64::MAX),
        });
    };
    Attempts::new(retry).run(&line.stop, moved, &say, act)
}

/// A source file that is opened only when somebody reads it: for the few backends that send small objects with the
/// publish. Thousands of files may wait for their parent, so none of them stays open.
pub struct LazySource {
    root: Arc<SourceRoot>,
    cache: Arc<BlockCache>,
    file: SourceFile,
    opened: OnceLock<offsite_plugin_api::Result<SourceReader>>,
}

impl LazySource {
    pub fn new(root: Arc<SourceRoot>, cache: Arc<BlockCache>, file: SourceFile) -> Self {
        Self { root, cache, file, opened: OnceLock::new() }
    }
}

impl Source for LazySource {
    fn size(&self) -> u64 {
        self.file.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> offsite_plugin_api::Result<usize> {
        let opened =
            self.opened.get_or_init(|| SourceReader::open(&self.root, &self.file, self.cache.clone()));
        opened.as_ref().map_err(Clone::clone)?.read_at(offset, buf)
    }
}
