//! Sending a file's bytes: this thread reads the source and keeps several writes in flight; the server is asked to flush
//! before a checkpoint names what it holds, and writes go on meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use offsite_plugin_api::{
    Call, Error, ErrorKind, Range, Ranges, Result, Session, Source, StageRequest, Staged, Token,
};
use smb2::msg::create::CreateDisposition;

use super::change::make_dirs;
use super::client::{IN_FLIGHT, LONG, PER_STREAM, Smb};
use super::error::{
    ACCESS_DENIED, OBJECT_NAME_COLLISION, OBJECT_NAME_NOT_FOUND, OBJECT_PATH_NOT_FOUND, failed, lost, stale,
    status,
};
use super::file::File;
use super::names::to_filetime;
use super::runtime::broken;
use super::share::{Access, Live, Options};
use super::write::{StagingToken, absent};

const MIB: u64 = 1 << 20;
/// Bytes and time after which a checkpoint is due.
const DUE: u64 = 24 * MIB;
const INTERVAL: Duration = Duration::from_secs(4);
/// Bytes without a checkpoint beyond which no more are sent until the server has flushed: what a kill costs at most.
const MOST: u64 = 56 * MIB;
/// What is asked of the throttle at once (plugin contract: at most 256 KiB).
const ASK: u64 = 256 * 1024;
/// The first write is small, because the rate is not known. It doubles while nothing waits.
const FIRST_BITE: u64 = 64 * 1024;
const SMALLEST_BITE: u64 = 4096;
/// For what has arrived when a call is cancelled.
const RESCUE: Duration = Duration::from_millis(1200);
/// Files from this size on are asked room for.
const ASK_ROOM: u64 = MIB;

pub fn stage(
    smb: &Smb,
    call: &Call,
    request: &StageRequest,
    source: &dyn Source,
    session: &dyn Session,
) -> Result<Staged> {
    call.proceed()?;
    // Refused before anything is sent.
    smb.wire(&request.path)?;
    let opened = begin(smb, call, request)?;
    let mut work = Work::new(smb, call, request, session, &opened);
    if let Err(error) = work.send(source) {
        // A clean stop costs nothing: what arrived is made safe first.
        if *error.kind() == ErrorKind::Cancelled {
            work.rescue();
        }
        return Err(error);
    }
    let file = opened.file.clone();
    let (size, mtime) = (request.size, request.attributes.mtime.map(|t| t.ns));
    let held = smb.on(call, "finish", &request.staging, LONG, |_| async move {
        let live = file.live();
        if size == 0 {
            live.set_size(*file, 0).await?;
        }
        // The time goes with the bytes: publishing then has nothing left to write to the file.
        if let Some(ns) = mtime {
            live.set_written(*file, to_filetime(ns)).await?;
        }
        Ok(file.flushed().await?.size)
    })?;
    Ok(Staged { token: opened.token, size: held, digests: Vec::new() })
}

/// The staging file, open.
struct Opened {
    file: File,
    token: Token,
    done: Ranges,
}

fn begin(smb: &Smb, call: &Call, request: &StageRequest) -> Result<Opened> {
    let path = &request.staging;
    let name = smb.wire(path)?;
    let resumed = match &request.resume {
        Some(resume) => {
            let token = StagingToken::parse(&resume.token)?;
            if token.path != *path {
                return Err(stale(path, "was staged under another name"));
            }
            Some((token, Ranges::from_list(&resume.ranges)))
        }
        None => None,
    };
    let fresh = resumed.is_none();
    let mut made_dirs = false;
    let (file, id, held, room) = loop {
        let (name, size) = (name.clone(), request.size);
        let opened = smb.on(call, "create", path, LONG, |live| async move {
            let result = open_staging(live, &name, fresh, size).await;
            match result {
                // A missing directory; some servers call that a refusal.
                Err(error) if fresh && !made_dirs && lacks_directory(&error) => Ok(None),
                Err(error) if !fresh && absent(&error) => Ok(Some(None)),
                other => other.map(|opened| Some(Some(opened))),
            }
        })?;
        match opened {
            Some(Some(opened)) => break opened,
            Some(None) => return Err(stale(path, "is not staged any more")),
            None => {
                make_dirs(smb, call, &path.parent().unwrap_or_default())?;
                made_dirs = true;
            }
        }
    };
    let done = match resumed {
        Some((token, done)) => {
            let same = token.id == 0 || token.id == id;
            if !same || held < done.end() || done.end() > request.size || held > request.size {
                return Err(stale(path, "is not what was staged"));
            }
            done
        }
        None => Ranges::default(),
    };
    let left: u64 = done.missing(request.size).iter().map(|r| r.length).sum();
    if let Some(free) = room.filter(|free| left > *free) {
        if fresh {
            let _ = smb.on(call, "remove", path, LONG, |_| async move {
                let removed = file.live().delete(*file).await;
                file.close().await;
                removed
            });
        }
        let message = format!(
            "no room for '{}': {left} more bytes are needed, {free} are free",
            request.path.display()
        );
        return Err(Error::new(ErrorKind::NoSpace, message)
            .with_context("hint", "free space on the server or choose another share"));
    }
    Ok(Opened { file, token: StagingToken { path: path.clone(), id }.token(), done })
}

fn lacks_directory(error: &smb2::Error) -> bool {
    matches!(status(error), Some(OBJECT_PATH_NOT_FOUND | OBJECT_NAME_NOT_FOUND | ACCESS_DENIED))
}

/// Always a new file unless resumed: the old one may be half published, or a dying worker may still write to it.
async fn open_staging(
    live: Arc<Live>,
    name: &str,
    fresh: bool,
    size: u64,
) -> smb2::Result<(File, u64, u64, Option<u64>)> {
    let options = Options::FILE;
    let disposition = if fresh { CreateDisposition::FileCreate } else { CreateDisposition::FileOpen };
    let (file, about) = match File::open(&live, name, disposition, Access::WRITE, options).await {
        Err(error) if fresh && status(&error) == Some(OBJECT_NAME_COLLISION) => {
            let (old, _) =
                File::open(&live, name, CreateDisposition::FileOpen, Access::DELETE, options).await?;
            live.delete(*old).await?;
            old.close().await;
            File::open(&live, name, disposition, Access::WRITE, options).await?
        }
        other => other?,
    };
    // A server that does not tell is tried.
    let room = if size >= ASK_ROOM { file.live().room(*file).await.ok() } else { None };
    Ok((file, about.id, about.size, room.map(|room| room.free)))
}

/// What the server has done.
enum Done {
    Written(Range, smb2::Result<()>),
    Flushed(smb2::Result<()>),
}

/// What had been written when the server was asked to flush.
struct Flush {
    done: Ranges,
    written: u64,
}

struct Work<'a> {
    smb: &'a Smb,
    call: &'a Call,
    request: &'a StageRequest,
    session: &'a dyn Session,
    opened: &'a Opened,
    done: Ranges,
    /// Bytes written by this call, and those of them that a checkpoint covers.
    written: u64,
    safe: u64,
    last: Instant,
    bite: u64,
    in_flight: usize,
    /// Bytes of those.
    under_way: u64,
    flush: Option<Flush>,
    give: Sender<Done>,
    take: Receiver<Done>,
}

impl<'a> Work<'a> {
    fn new(
        smb: &'a Smb,
        call: &'a Call,
        request: &'a StageRequest,
        session: &'a dyn Session,
        opened: &'a Opened,
    ) -> Self {
        let (give, take) = channel();
        Self {
            smb,
            call,
            request,
            session,
            opened,
            done: opened.done.clone(),
            written: 0,
            safe: 0,
            last: Instant::now(),
            bite: FIRST_BITE.min(opened.file.live().write),
            in_flight: 0,
            under_way: 0,
            flush: None,
            give,
            take,
        }
    }

    fn send(&mut self, source: &dyn Source) -> Result<()> {
        let window = (self.request.streams as usize * PER_STREAM).clamp(PER_STREAM, IN_FLIGHT);
        let mut todo: VecDeque<Range> = self.done.missing(self.request.size).into();
        loop {
            while self.in_flight < window
                && !(self.flush.is_some() && self.written + self.under_way - self.safe >= MOST)
                && let Some(range) = todo.pop_front()
            {
                let length = range.length.min(self.bite);
                if length < range.length {
                    todo.push_front(Range { offset: range.offset + length, length: range.length - length });
                }
                self.write(source, Range { offset: range.offset, length })?;
                // What has arrived meanwhile.
                while let Ok(done) = self.take.try_recv() {
                    self.arrived(done)?;
                }
                self.flush_if_due();
            }
            // A flush that fails says so once: it is waited for.
            if self.in_flight == 0 && self.flush.is_none() {
                return Ok(());
            }
            self.wait()?;
            self.flush_if_due();
        }
    }

    fn write(&mut self, source: &dyn Source, range: Range) -> Result<()> {
        self.call.proceed()?;
        let mut bytes = vec![0; range.length as usize];
        let read = source.read_at(range.offset, &mut bytes)?;
        if read != bytes.len() {
            return Err(Error::new(
                ErrorKind::SourceChanged,
                format!(
                    "the source ends at byte {} and had {}",
                    range.offset + read as u64,
                    self.request.size
                ),
            ));
        }
        self.pace(range.length)?;
        let (file, give) = (self.opened.file.clone(), self.give.clone());
        self.smb.runtime.handle.spawn(async move {
            let result = file.live().write_all(*file, bytes, range.offset).await;
            drop(file);
            let _ = give.send(Done::Written(range, result));
        });
        self.in_flight += 1;
        self.under_way += range.length;
        Ok(())
    }

    /// The throttle: bites shrink while it makes us wait long, so that a slow rate is even.
    fn pace(&mut self, bytes: u64) -> Result<()> {
        let before = Instant::now();
        let mut left = bytes;
        while left > 0 {
            self.call.pace(left.min(ASK))?;
            left -= left.min(ASK);
        }
        let waited = before.elapsed();
        if waited > Duration::from_millis(250) {
            self.bite = (self.bite / 2).max(SMALLEST_BITE);
        } else if waited < Duration::from_millis(20) {
            self.bite = (self.bite * 2).min(self.opened.file.live().write);
        }
        Ok(())
    }

    fn arrived(&mut self, done: Done) -> Result<()> {
        let (act, result) = match &done {
            Done::Written(_, result) => ("write", result),
            Done::Flushed(result) => ("make durable", result),
        };
        if let Err(error) = result {
            if lost(error) {
                self.smb.forget();
            }
            return Err(failed(act, &self.request.staging, error));
        }
        match (done, self.flush.take()) {
            (Done::Written(range, _), flush) => {
                self.flush = flush;
                self.in_flight -= 1;
                self.under_way -= range.length;
                self.call.acked(range.length);
                self.done.insert(range);
                self.written += range.length;
            }
            (Done::Flushed(_), Some(flush)) => {
                self.session.checkpoint(&self.opened.token, flush.done.as_slice(), true)?;
                self.safe = flush.written;
                self.last = Instant::now();
            }
            (Done::Flushed(_), None) => {}
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.take.recv_timeout(Duration::from_millis(100)) {
                Ok(done) => return self.arrived(done),
                Err(RecvTimeoutError::Timeout) => {
                    self.call.proceed()?;
                    if begun.elapsed() > LONG {
                        self.smb.forget();
                        return Err(Error::new(
                            ErrorKind::TimedOut,
                            "the server does not answer a write or a flush",
                        ));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Err(broken()),
            }
        }
    }

    /// Asks the server to flush when a checkpoint is due; it is made when the server has done so.
    fn flush_if_due(&mut self) {
        let new = self.written - self.safe;
        if self.flush.is_some() || new < DUE && (new == 0 || self.last.elapsed() < INTERVAL) {
            return;
        }
        self.flush = Some(Flush { done: self.done.clone(), written: self.written });
        let (file, give) = (self.opened.file.clone(), self.give.clone());
        self.smb.runtime.handle.spawn(async move {
            let result = file.live().flush(*file).await;
            drop(file);
            let _ = give.send(Done::Flushed(result));
        });
    }

    /// After a cancelled call: one short try to keep what has arrived.
    fn rescue(&mut self) {
        let end = Instant::now() + RESCUE;
        // Whose failure nobody hears of again: a later flush would say that all is well.
        while self.flush.is_some() {
            let Ok(done) = self.take.recv_timeout(end.saturating_duration_since(Instant::now())) else {
                return;
            };
            if self.arrived(done).is_err() {
                return;
            }
        }
        if self.written == self.safe {
            return;
        }
        let file = self.opened.file.clone();
        let left = end.saturating_duration_since(Instant::now());
        let flushed =
            self.smb.runtime.run(&Call::unwatched(), left, async move { file.live().flush(*file).await });
        if matches!(flushed, Ok(Ok(()))) {
            // The host is about to end: a refused checkpoint changes nothing any more.
            let _ = self.session.checkpoint(&self.opened.token, self.done.as_slice(), true);
        }
    }
}
