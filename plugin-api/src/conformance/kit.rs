//! What the cases share: a watching call, sources with known content, a recording session, a collecting sink, and the
//! whole upload in one step.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Make;
use crate::{
    Attributes, Backend, Call, CallHost, Capabilities, Entry, Error, ErrorKind, Expect, Level,
    PublishRequest, Range, Result, ResumeFrom, Session, Sink, Source, StageRequest, Staged, TargetPath,
    Token,
};

pub const ROOT: &str = "offsite-conformance";
pub const OWNER: &str = "conformance";
pub const MIB: u64 = 1024 * 1024;

/// Why a case ends early.
pub enum Stop {
    Fail(String),
    Skip(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Fail(format!("unexpected error {}: {error}", error.kind()))
    }
}

pub fn skip<T>(why: &str) -> std::result::Result<T, Stop> {
    Err(Stop::Skip(why.to_owned()))
}

/// Ends the case with a message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::conformance::kit::Stop::Fail(format!($($message)+)));
        }
    };
}
pub(super) use ensure;

/// Ends the case unless `result` is an error of one of these kinds.
pub fn refused<T>(what: &str, result: Result<T>, kinds: &[ErrorKind]) -> std::result::Result<(), Stop> {
    match result {
        Err(error) if kinds.contains(error.kind()) => Ok(()),
        Err(error) => {
            Err(Stop::Fail(format!("{what}: expected one of {kinds:?}, got {:?}: {error}", error.kind())))
        }
        Ok(_) => Err(Stop::Fail(format!("{what}: expected one of {kinds:?}, but it succeeded"))),
    }
}

/// What a backend says of a token that names nothing (any more).
pub const GONE: &[ErrorKind] = &[ErrorKind::NotFound, ErrorKind::StaleToken];

/// One case's surroundings: an own directory on the target.
pub struct Ctx<'a> {
    pub make: Make<'a>,
    pub backend: Box<dyn Backend>,
    pub caps: Capabilities,
    pub dir: TargetPath,
    staged: AtomicU64,
}

impl<'a> Ctx<'a> {
    pub fn new(make: Make<'a>, case: &str) -> std::result::Result<Self, Stop> {
        let backend = make();
        let caps = backend.capabilities(&Call::unwatched())?;
        let name: String = case.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let dir = TargetPath::new(format!("{ROOT}/{name}"))?;
        Ok(Self { make, backend, caps, dir, staged: AtomicU64::new(0) })
    }

    pub fn path(&self, name: impl AsRef<[u8]>) -> Result<TargetPath> {
        self.dir.join(name)
    }

    /// A request to stage `size` bytes for `path`, under a staging name of its own.
    pub fn request(&self, path: &TargetPath, size: u64) -> Result<StageRequest> {
        let number = self.staged.fetch_add(1, SeqCst);
        let staging =
            path.parent().unwrap_or_default().join(format!("offsite-{OWNER}-{number:016x}.part"))?;
        Ok(StageRequest {
            path: path.clone(),
            staging,
            attributes: Attributes::default(),
            size,
            streams: 1,
            owner: OWNER.to_owned(),
            resume: None,
        })
    }

    /// Stages `content` for `path`.
    pub fn stage(&self, path: &TargetPath, content: &Content) -> Result<Staged> {
        let request = self.request(path, content.size)?;
        let session = Arc::new(Record::default());
        self.backend.stage(&Call::unwatched(), &request, Arc::new(content.clone()), session)
    }

    pub fn publish(
        &self,
        path: &TargetPath,
        token: &Token,
        content: &Content,
        expect: Expect,
    ) -> Result<Entry> {
        self.backend.publish(&Call::unwatched(), &publish_request(path, token, content, expect))
    }

    /// Stage and publish.
    pub fn put(&self, path: &TargetPath, content: &Content) -> Result<Entry> {
        let staged = self.stage(path, content)?;
        self.publish(path, &staged.token, content, Expect::Any)
    }

    pub fn stat(&self, path: &TargetPath) -> Result<Entry> {
        self.backend.stat(&Call::unwatched(), path)
    }

    /// Ends the case unless the whole file holds `content`.
    pub fn holds(&self, path: &TargetPath, content: &Content) -> std::result::Result<(), Stop> {
        let sink = Arc::new(Compare::new(content.clone(), 0));
        self.backend.get(&Call::unwatched(), path, None, None, sink.clone())?;
        sink.complete(content.size)
    }

    /// Ends the case unless nothing has that name, by `stat` and by `list`.
    pub fn absent(&self, path: &TargetPath) -> std::result::Result<(), Stop> {
        refused(
            &format!("stat of {path:?}, which should not be there"),
            self.stat(path),
            &[ErrorKind::NotFound],
        )?;
        let listed = match list_all(&*self.backend, &path.parent().unwrap_or_default(), false) {
            Ok(entries) => entries,
            Err(error) if *error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        ensure!(listed.iter().all(|e| e.path != *path), "{path:?} is listed, but should not be there");
        Ok(())
    }
}

pub fn publish_request(
    path: &TargetPath,
    token: &Token,
    content: &Content,
    expect: Expect,
) -> PublishRequest {
    PublishRequest {
        token: token.clone(),
        path: path.clone(),
        expect,
        attributes: Attributes::default(),
        digests: Vec::new(),
        size: content.size,
        source: Arc::new(content.clone()),
    }
}

/// Every page of a listing. Refuses a listing that never ends.
pub fn list_all(backend: &dyn Backend, dir: &TargetPath, recursive: bool) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut next: Option<Vec<u8>> = None;
    for _ in 0..10_000 {
        let page = backend.list(&Call::unwatched(), dir, recursive, next.as_deref())?;
        if let Some((at, why)) = page.incomplete.first() {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("plain files, and {at:?} is not listed wholly: {why}"),
            ));
        }
        entries.extend(page.entries);
        match page.next {
            Some(more) => next = Some(more),
            None => return Ok(entries),
        }
    }
    Err(Error::new(ErrorKind::Other, format!("the listing of {dir:?} has more than 10,000 pages")))
}

/// Bytes that depend on seed and offset alone, so that any part of any size can be made and compared without memory.
#[derive(Clone)]
pub struct Content {
    pub seed: u64,
    pub size: u64,
}

impl Content {
    pub fn new(seed: u64, size: u64) -> Self {
        Self { seed, size }
    }

    pub fn fill(&self, offset: u64, buf: &mut [u8]) {
        let mut at = 0;
        while at < buf.len() {
            let position = offset + at as u64;
            // SplitMix64 of the block number: every 8 bytes differ.
            let mut word = (position / 8).wrapping_add(self.seed << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let bytes = (word ^ (word >> 31)).to_le_bytes();
            let skip = (position % 8) as usize;
            let n = (8 - skip).min(buf.len() - at);
            buf[at..at + n].copy_from_slice(&bytes[skip..skip + n]);
            at += n;
        }
    }

    /// The part of `buf.len()` bytes from `offset` that exists.
    fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let n = self.size.saturating_sub(offset).min(buf.len() as u64) as usize;
        self.fill(offset, &mut buf[..n]);
        n
    }
}

impl Source for Content {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        Ok(self.read(offset, buf))
    }
}

/// A source that remembers what was read, and fails, slows down or ends early on demand.
pub struct Trick {
    pub content: Content,
    /// Every read, in order.
    pub reads: Mutex<Vec<Range>>,
    /// After this many bytes reads fail with this kind.
    pub fail: Option<(u64, ErrorKind)>,
    /// Bytes from here on do not exist, although `size` says they do.
    pub ends_at: Option<u64>,
    pub slow: Duration,
    /// Reads fail from then on, so that a case ends with a backend that does not listen.
    pub until: Option<Instant>,
    served: AtomicU64,
}

impl Trick {
    pub fn new(content: &Content) -> Self {
        Self {
            content: content.clone(),
            reads: Mutex::default(),
            fail: None,
            ends_at: None,
            slow: Duration::ZERO,
            until: None,
            served: AtomicU64::new(0),
        }
    }

    pub fn reads(&self) -> Vec<Range> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Source for Trick {
    fn size(&self) -> u64 {
        self.content.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        std::thread::sleep(self.slow);
        if self.until.is_some_and(|t| Instant::now() > t) {
            return Err(Error::new(ErrorKind::Other, "the backend went on for too long"));
        }
        if let Some((after, kind)) = &self.fail
            && self.served.load(SeqCst) >= *after
        {
            return Err(Error::new(kind.clone(), "the source fails now, as the case wants it"));
        }
        let end = self.ends_at.unwrap_or(u64::MAX);
        let room = (end.saturating_sub(offset).min(buf.len() as u64)) as usize;
        let n = self.content.read(offset, &mut buf[..room]);
        self.served.fetch_add(n as u64, SeqCst);
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        reads.push(Range { offset, length: n as u64 });
        Ok(n)
    }
}

/// A call that counts, and is cancelled or out of time on demand.
#[derive(Default)]
pub struct Watch {
    pub paced: AtomicU64,
    pub acked: AtomicU64,
    pub cancelled: AtomicBool,
    /// Every call of `pace` blocks until the cancellation.
    pub stuck: bool,
    pub deadline: Option<Instant>,
}

impl Watch {
    pub fn call(self: &Arc<Self>) -> Call {
        Call::new(self.clone())
    }
}

impl CallHost for Watch {
    fn cancelled(&self) -> bool {
        self.cancelled.load(SeqCst)
    }

    fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|d| d.saturating_duration_since(Instant::now()))
    }

    fn pace(&self, bytes: u64) -> bool {
        while self.stuck && !self.cancelled() {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.paced.fetch_add(bytes, SeqCst);
        !self.cancelled()
    }

    fn acked(&self, bytes: u64) {
        self.acked.fetch_add(bytes, SeqCst);
    }

    fn alive(&self, _: &str) {}
    fn log(&self, _: Level, _: &str) {}
}

/// A session that keeps its checkpoints, and refuses them on demand.
#[derive(Default)]
pub struct Record {
    pub checkpoints: Mutex<Vec<(ResumeFrom, bool)>>,
    pub refuse: Option<ErrorKind>,
}

impl Record {
    pub fn last(&self) -> Option<ResumeFrom> {
        self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner).last().map(|(at, _)| at.clone())
    }
}

impl Session for Record {
    fn checkpoint(&self, token: &Token, ranges: &[Range], durable: bool) -> Result<()> {
        if let Some(kind) = &self.refuse {
            return Err(Error::new(kind.clone(), "the checkpoint is refused, as the case wants it"));
        }
        let at = ResumeFrom { token: token.clone(), ranges: ranges.to_vec() };
        self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner).push((at, durable));
        Ok(())
    }
}

/// A sink that compares what comes with what should come.
pub struct Compare {
    content: Content,
    start: u64,
    at: AtomicU64,
    wrong: Mutex<Option<u64>>,
}

impl Compare {
    pub fn new(content: Content, start: u64) -> Self {
        Self { content, start, at: AtomicU64::new(start), wrong: Mutex::new(None) }
    }

    /// Ends the case unless exactly `length` right bytes came.
    pub fn complete(&self, length: u64) -> std::result::Result<(), Stop> {
        let wrong = *self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(wrong.is_none(), "the bytes read back differ from those sent in the block at {wrong:?}");
        let came = self.at.load(SeqCst) - self.start;
        ensure!(came == length, "{came} bytes were read back, {length} were expected");
        Ok(())
    }
}

impl Sink for Compare {
    fn write(&self, bytes: &[u8]) -> Result<()> {
        let at = self.at.fetch_add(bytes.len() as u64, SeqCst);
        let mut expected = vec![0; bytes.len()];
        let n = self.content.read(at, &mut expected);
        if expected[..n] != *bytes {
            self.wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(at);
        }
        Ok(())
    }
}

/// How many bytes of `a` lie in `b` (both lists disjoint).
pub fn overlap(a: &[Range], b: &[Range]) -> u64 {
    let one = |x: &Range, y: &Range| x.end().min(y.end()).saturating_sub(x.offset.max(y.offset));
    a.iter().map(|x| b.iter().map(|y| one(x, y)).sum::<u64>()).sum()
}

pub fn total(ranges: &[Range]) -> u64 {
    ranges.iter().map(|r| r.length).sum()
}
