//! Sending a file's bytes: several connections write disjoint pieces of one staging file, each keeping a window of writes
//! in flight; the first of them also takes the checkpoints.
//!
//! The file's last bytes are written when all others are acknowledged, together with its time and the last sync: so a
//! staging file of full size is whole. At most 64 MiB are sent beyond the last checkpoint.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use offsite_plugin_api::{
    Call, Error, ErrorKind, Level, Range, Ranges, Result, Session, Source, StageRequest, Staged, Token,
};

use super::client::{Sftp, missing, seconds};
use super::digest::Busy;
use super::error::{OK, exists, no_space, out_of_order, stale, status};
use super::link::{Link, Soon};
use super::pool::MOST;
use super::stream::Stream;
use super::wire::{self, Out, Reply, SetAttrs};
use super::write::StagingToken;

const MIB: u64 = 1 << 20;
/// What one connection takes at a time, so that its writes are sequential.
const UNIT: u64 = 8 * MIB;
/// The bytes that are written last.
const SEAL: u64 = 64 * 1024;
/// Files from this size on are not begun where they do not fit.
const ASK_SPACE: u64 = MIB;
const IN_ORDER: &str = "cannot be written in pieces: this server takes a file's bytes only in their order";
/// For a last checkpoint after a cancellation.
const GRACE: Duration = Duration::from_millis(900);

pub fn stage(
    sftp: &Sftp,
    call: &Call,
    request: &StageRequest,
    source: &dyn Source,
    session: &dyn Session,
) -> Result<Staged> {
    let mut link = sftp.lease(call)?;
    let in_order = sftp.in_order.load(Ordering::Relaxed);
    if in_order && request.resume.is_some() {
        return Err(stale(&request.staging, IN_ORDER));
    }
    let (handle, done) = open(sftp, &mut link, call, request).map_err(|e| {
        let dir = sftp.at(&request.staging.parent().unwrap_or_default());
        link.why(call, e, &dir)
    })?;
    let token = StagingToken { path: request.staging.clone() }.token();
    let mut missing = done.missing(request.size);
    let seal = missing.last_mut().map_or(Range { offset: request.size, length: 0 }, |last| {
        let length = last.length.min(SEAL);
        last.length -= length;
        Range { offset: last.end(), length }
    });
    let units = units(&missing);
    let most = if in_order { 1 } else { MOST as u32 / 2 };
    let streams = request.streams.clamp(1, most).min(units.len() as u32).max(1);
    let work = Work {
        sftp,
        call,
        source,
        session,
        request,
        token: &token,
        in_order: streams == 1 && request.resume.is_none(),
        state: Mutex::new(State {
            units,
            done,
            sent: 0,
            acked: 0,
            safe: 0,
            others: streams - 1,
            failure: None,
        }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 1..streams {
            scope.spawn(|| {
                work.help();
                work.lock().others -= 1;
                work.changed.notify_all();
            });
        }
        let result = Stream::new(&work, &mut link, &handle).run(true);
        work.settle(result)
    })
    .or_else(|error| work.last_checkpoint(&mut link, &handle, error))
    .and_then(|()| finish(&work, &mut link, &handle, seal))
    .inspect_err(|_| link.put_away(call, &handle))
    .map(|size| Staged { token: token.clone(), size, digests: Vec::new() })
}

/// The staging file: the one to go on with, or a new one; and whether the rest fits.
fn open(sftp: &Sftp, link: &mut Link, call: &Call, request: &StageRequest) -> Result<(Vec<u8>, Ranges)> {
    let path = &request.staging;
    let dir = path.parent().unwrap_or_default();
    let mut done = Ranges::default();
    let mut longer = false;
    if let Some(resume) = &request.resume {
        if StagingToken::parse(&resume.token)?.path != *path {
            return Err(stale(path, "was staged under another name"));
        }
        done = Ranges::from_list(&resume.ranges);
        match sftp.look(link, call, path)? {
            None => return Err(stale(path, "is not staged any more")),
            Some(a) if !a.is_file() || a.size.unwrap_or(0) < done.end() || done.end() > request.size => {
                return Err(stale(path, "is not what was staged"));
            }
            Some(a) => longer = a.size.unwrap_or(0) > request.size,
        }
    }
    let left: u64 = done.missing(request.size).iter().map(|r| r.length).sum();
    let space = match left >= ASK_SPACE && link.features.statvfs {
        true => Some(link.ask_space(call, &sftp.at(&dir))?),
        false => None,
    };
    let flags = match request.resume {
        Some(_) => wire::OPEN_WRITE,
        // Always a new file: the old one may be half published, or a dying worker may still write to it. Emptied all the same
        // by servers that do not know of exclusive ones.
        None => wire::OPEN_WRITE | wire::OPEN_CREATE | wire::OPEN_EXCLUSIVE | wire::OPEN_TRUNCATE,
    };
    let try_open = |link: &mut Link| {
        let body = Out::default().bytes(&sftp.at(path)).u32(flags).attrs(&SetAttrs::default());
        let id = link.request(call, wire::OPEN, body)?;
        link.handle(call, id, "create", path)
    };
    let opened = try_open(link);
    let free = match space {
        Some(id) => link.space_of(call, id)?.map(|s| s.free),
        None => None,
    };
    let handle = match opened {
        Ok(handle) => handle,
        Err(e) if request.resume.is_none() && *e.kind() == ErrorKind::NotFound => {
            sftp.make_dirs(link, call, &dir)?;
            try_open(link)?
        }
        Err(e) if request.resume.is_none() && matches!(e.kind(), ErrorKind::Other | ErrorKind::Exists) => {
            match sftp.look(link, call, path)? {
                Some(a) if a.is_dir() => return Err(exists(path)),
                Some(_) => {
                    let id = link.request(call, wire::REMOVE, Out::default().bytes(&sftp.at(path)))?;
                    missing(link.done(call, id, "replace", path))?;
                    try_open(link)?
                }
                None => return Err(e),
            }
        }
        Err(e) => return Err(e),
    };
    if let Some(free) = free.filter(|free| *free < left) {
        link.let_go(&handle);
        if request.resume.is_none() {
            let id = link.request(call, wire::REMOVE, Out::default().bytes(&sftp.at(path)))?;
            let _ = link.done(call, id, "remove", path);
        }
        return Err(no_space(&request.path, left, free));
    }
    if longer {
        let set = SetAttrs { size: Some(request.size), ..SetAttrs::default() };
        let id = link.request(call, wire::FSETSTAT, Out::default().bytes(&handle).attrs(&set))?;
        link.done(call, id, "shorten", path)?;
    }
    Ok((handle, done))
}

fn units(missing: &[Range]) -> Vec<Range> {
    let mut units = Vec::new();
    for range in missing {
        let mut offset = range.offset;
        while offset < range.end() {
            // To the next multiple, so that resumed ranges fall back into step.
            let end = ((offset / UNIT + 1) * UNIT).min(range.end());
            units.push(Range { offset, length: end - offset });
            offset = end;
        }
    }
    units.reverse();
    units
}

/// The last bytes, the time and the last sync, all in flight at once. Gives the size that the server then says.
fn finish(work: &Work<'_>, link: &mut Link, handle: &[u8], seal: Range) -> Result<u64> {
    let (call, request) = (work.call, work.request);
    let path = &request.staging;
    let mut stream = Stream::new(work, link, handle);
    stream.unit = seal;
    while stream.unit.length > 0 {
        stream.send_piece()?;
    }
    let writes = std::mem::take(&mut stream.flying);
    let handle = || Out::default().bytes(handle);
    let set = match request.attributes.mtime.map(seconds) {
        Some(mtime) => {
            let set = SetAttrs { mtime: Some(mtime), ..SetAttrs::default() };
            Some(link.request(call, wire::FSETSTAT, handle().attrs(&set))?)
        }
        None => None,
    };
    let sync = match link.features.fsync {
        true => Some(link.extended(call, b"fsync@openssh.com", handle())?),
        false => None,
    };
    let size = link.request(call, wire::FSTAT, handle())?;
    let close = link.request(call, wire::CLOSE, handle())?;
    let busy = Busy { call, told: Cell::new(Instant::now()), note: "the server writes to its disk" };
    for (id, range) in writes {
        let reply = link.answer(call, id)?;
        work.written(link, reply, range)?;
    }
    if let Some(id) = set {
        link.done(&busy, id, "set the time of", path)?;
    }
    if let Some(id) = sync {
        link.done(&busy, id, "make durable", path)?;
    }
    let attrs = link.attrs(&busy, size, "look at", path)?;
    // Some servers tell only here that a disk is full.
    link.done(&busy, close, "close", path)?;
    Ok(attrs.size.unwrap_or(request.size))
}

pub struct State {
    /// What is left to do, the next one last.
    pub units: Vec<Range>,
    /// Acknowledged, and named in the next checkpoint.
    pub done: Ranges,
    /// Bytes sent and acknowledged by this call, and those that a checkpoint covers.
    pub sent: u64,
    pub acked: u64,
    pub safe: u64,
    /// Helping connections at work.
    pub others: u32,
    pub failure: Option<Error>,
}

pub struct Work<'a> {
    pub sftp: &'a Sftp,
    pub call: &'a Call,
    pub source: &'a dyn Source,
    pub session: &'a dyn Session,
    pub request: &'a StageRequest,
    pub token: &'a Token,
    /// The bytes go in their order, from the file's first one on.
    in_order: bool,
    pub state: Mutex<State>,
    pub changed: Condvar,
}

impl Work<'_> {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn wait(&self, millis: u64) -> Result<()> {
        self.call.proceed()?;
        let state = self.lock();
        drop(self.changed.wait_timeout(state, Duration::from_millis(millis)));
        Ok(())
    }

    fn fail(&self, error: Error) {
        self.lock().failure.get_or_insert(error);
        self.changed.notify_all();
    }

    /// What came of the first connection, once the helpers are gone.
    fn settle(&self, result: Result<()>) -> Result<()> {
        if let Err(error) = result {
            self.fail(error);
        }
        while self.lock().others > 0 {
            let state = self.lock();
            drop(self.changed.wait_timeout(state, Duration::from_millis(100)));
        }
        match self.lock().failure.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// One more connection, for as long as there is work for it. Not getting one is no failure: the others go on.
    fn help(&self) {
        loop {
            {
                let state = self.lock();
                if state.units.is_empty() || state.failure.is_some() {
                    return;
                }
            }
            match self.sftp.spare(self.call) {
                Ok(Some(mut link)) => {
                    if let Err(error) = self.help_with(&mut link) {
                        self.fail(error);
                    }
                    return;
                }
                Ok(None) => {
                    if self.wait(50).is_err() {
                        return;
                    }
                }
                Err(e) => {
                    if !matches!(e.kind(), ErrorKind::Cancelled) {
                        self.call.log(Level::Warn, &format!("going on with fewer connections: {e}"));
                    }
                    return;
                }
            }
        }
    }

    fn help_with(&self, link: &mut Link) -> Result<()> {
        let path = &self.request.staging;
        let body =
            Out::default().bytes(&self.sftp.at(path)).u32(wire::OPEN_WRITE).attrs(&SetAttrs::default());
        let id = link.request(self.call, wire::OPEN, body)?;
        let handle = match link.handle(self.call, id, "open", path) {
            Ok(handle) => handle,
            // A server that lets one connection write to a file.
            Err(error) if link.sound() => {
                self.call.log(Level::Info, &format!("going on with fewer connections: {error}"));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        Stream::new(self, link, &handle).run(false).inspect_err(|_| link.put_away(self.call, &handle))?;
        let id = link.request(self.call, wire::CLOSE, Out::default().bytes(&handle))?;
        link.done(self.call, id, "close", path)
    }

    /// A write's answer.
    pub fn written(&self, link: &mut Link, reply: Reply, range: Range) -> Result<()> {
        match reply {
            Reply::Status(OK, _) => {
                self.call.acked(range.length);
                let mut state = self.lock();
                state.done.insert(range);
                state.acked += range.length;
                Ok(())
            }
            Reply::Status(code, words) if !self.in_order && out_of_order(code, &words) => {
                self.sftp.in_order.store(true, Ordering::Relaxed);
                let error = stale(&self.request.staging, IN_ORDER);
                Err(error.with_source(status("write", &self.request.staging, code, &words).to_string()))
            }
            Reply::Status(code, words) => {
                let error = status("write", &self.request.staging, code, &words);
                let dir = self.sftp.at(&self.request.staging.parent().unwrap_or_default());
                Err(link.why(self.call, error, &dir))
            }
            _ => Err(link.confused()),
        }
    }

    /// What is acknowledged and not lost yet is made safe, where that is quick: a stopped run costs nothing then.
    fn last_checkpoint(&self, link: &mut Link, handle: &[u8], error: Error) -> Result<()> {
        use ErrorKind as K;
        if !matches!(error.kind(), K::Cancelled | K::TimedOut | K::Interrupted | K::SourceChanged) {
            return Err(error);
        }
        let (done, new) = {
            let state = self.lock();
            (state.done.clone(), state.acked > state.safe)
        };
        let grace = Soon(Instant::now() + GRACE);
        if new && link.sound() {
            let durable = match link.features.fsync {
                true => {
                    let synced = link
                        .extended(&grace, b"fsync@openssh.com", Out::default().bytes(handle))
                        .and_then(|id| link.done(&grace, id, "make durable", &self.request.staging));
                    if synced.is_err() {
                        return Err(error);
                    }
                    true
                }
                false => false,
            };
            // The first error is the one that matters.
            let _ = self.session.checkpoint(self.token, done.as_slice(), durable);
        }
        Err(error)
    }
}
