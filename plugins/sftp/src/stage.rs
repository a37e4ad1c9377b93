//! Sending a file's bytes: several connections write disjoint pieces of one staging file, each keeping a window of writes
//! in flight; the first of them also takes the checkpoints.
//!
//! The file's last bytes are written when all others are acknowledged, together with its time and the last sync: so a
//! staging file of full size is whole. At most [`UNSAFE`] bytes are sent beyond the last checkpoint.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use offsite_plugin_api::{
    Call, Error, ErrorKind, Level, Range, Ranges, Result, Session, Source, StageRequest, Staged, Token,
};

use super::client::{Sftp, missing, seconds};
use super::digest::Busy;
use super::error::{OK, exists, no_space, stale, status};
use super::link::{Link, Soon, write_room};
use super::pool::MOST;
use super::wire::{self, Out, Reply, SetAttrs};
use super::write::StagingToken;

const MIB: u64 = 1 << 20;
/// What one connection takes at a time, so that its writes are sequential.
const UNIT: u64 = 8 * MIB;
/// Writes in flight on one connection: twice what sshd's window lets through.
const WINDOW: u64 = 4 * MIB;
/// Bytes after which a checkpoint is due, and beyond which writers wait for it.
const DUE: u64 = 32 * MIB;
const UNSAFE: u64 = 64 * MIB;
const INTERVAL: Duration = Duration::from_secs(3);
/// The bytes that are written last.
const SEAL: u64 = 64 * 1024;
/// libssh2 sends at most so much of a channel in one packet: writes are made to fill whole ones.
const PACKET: usize = 32_700;
/// The first write: small, because the rate is not known. It doubles while nothing waits.
const FIRST_BITE: usize = 16 * 1024;
const SMALLEST_BITE: usize = 4096;
/// Files from this size on are not begun where they do not fit.
const ASK_SPACE: u64 = MIB;
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
    let streams = request.streams.clamp(1, MOST as u32 / 2).min(units.len() as u32).max(1);
    let work = Work {
        sftp,
        call,
        source,
        session,
        request,
        token: &token,
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
    .inspect_err(|_| link.let_go(&handle))
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
        true => Some(link.extended(call, b"statvfs@openssh.com", Out::default().bytes(&sftp.at(&dir)))?),
        false => None,
    };
    let flags = match request.resume {
        Some(_) => wire::OPEN_WRITE,
        // Always a new file: the old one may be half published, or a dying worker may still write to it.
        None => wire::OPEN_WRITE | wire::OPEN_CREATE | wire::OPEN_EXCLUSIVE,
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

struct State {
    /// What is left to do, the next one last.
    units: Vec<Range>,
    /// Acknowledged, and named in the next checkpoint.
    done: Ranges,
    /// Bytes sent and acknowledged by this call, and those that a checkpoint covers.
    sent: u64,
    acked: u64,
    safe: u64,
    /// Helping connections at work.
    others: u32,
    failure: Option<Error>,
}

struct Work<'a> {
    sftp: &'a Sftp,
    call: &'a Call,
    source: &'a dyn Source,
    session: &'a dyn Session,
    request: &'a StageRequest,
    token: &'a Token,
    state: Mutex<State>,
    changed: Condvar,
}

impl Work<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, millis: u64) -> Result<()> {
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
        let handle = link.handle(self.call, id, "open", path)?;
        Stream::new(self, link, &handle).run(false).inspect_err(|_| link.let_go(&handle))?;
        let id = link.request(self.call, wire::CLOSE, Out::default().bytes(&handle))?;
        link.done(self.call, id, "close", path)
    }

    /// A write's answer.
    fn written(&self, link: &mut Link, reply: Reply, range: Range) -> Result<()> {
        match reply {
            Reply::Status(OK, _) => {
                self.call.acked(range.length);
                let mut state = self.lock();
                state.done.insert(range);
                state.acked += range.length;
                Ok(())
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

/// One connection at work.
struct Stream<'w, 'l> {
    work: &'w Work<'w>,
    link: &'l mut Link,
    handle: &'l [u8],
    /// What is left of the unit in hand.
    unit: Range,
    flying: VecDeque<(u32, Range)>,
    in_flight: u64,
    packet: Vec<u8>,
    bite: usize,
    most: usize,
    /// A sync that was asked for, and what it will make safe.
    syncing: Option<(u32, Ranges, u64)>,
    last: Instant,
    named: bool,
}

impl<'w, 'l> Stream<'w, 'l> {
    fn new(work: &'w Work<'w>, link: &'l mut Link, handle: &'l [u8]) -> Self {
        let room = write_room(handle);
        let packets = ((link.features.most_write + room) / PACKET).max(1);
        let most = (packets * PACKET - room).min(link.features.most_write);
        Self {
            work,
            link,
            handle,
            unit: Range { offset: 0, length: 0 },
            flying: VecDeque::new(),
            in_flight: 0,
            packet: Vec::new(),
            bite: FIRST_BITE.min(most),
            most,
            syncing: None,
            last: Instant::now(),
            named: false,
        }
    }

    /// Writes until nothing is left; `first`: takes the checkpoints, and stays until the helpers are done.
    fn run(&mut self, first: bool) -> Result<()> {
        let work = self.work;
        loop {
            work.call.proceed()?;
            if work.lock().failure.is_some() {
                return Ok(());
            }
            if first {
                self.checkpoint(false)?;
            }
            let more = self.take_unit();
            if more && self.in_flight < WINDOW && !self.must_wait() {
                self.send_piece()?;
                self.collect(false)?;
                continue;
            }
            if !self.flying.is_empty() {
                self.collect(true)?;
                continue;
            }
            if more {
                // Too much is unsafe: the checkpoint has to come first.
                if first && self.syncing.is_some() {
                    self.checkpoint(true)?;
                } else {
                    work.wait(20)?;
                }
                continue;
            }
            if !first {
                return Ok(());
            }
            if self.syncing.is_some() {
                self.checkpoint(true)?;
            } else if work.lock().others == 0 {
                return Ok(());
            } else {
                work.wait(20)?;
            }
        }
    }

    /// Whether there is something to send.
    fn take_unit(&mut self) -> bool {
        if self.unit.length == 0
            && let Some(unit) = self.work.lock().units.pop()
        {
            self.unit = unit;
        }
        self.unit.length > 0
    }

    fn must_wait(&self) -> bool {
        let state = self.work.lock();
        state.sent - state.safe > UNSAFE
    }

    /// Sends the next piece of the unit.
    fn send_piece(&mut self) -> Result<()> {
        let work = self.work;
        let room = write_room(self.handle);
        let length = self.unit.length.min(self.bite.min(self.most) as u64) as usize;
        let offset = self.unit.offset;
        self.packet.resize(room + length, 0);
        let read = work.source.read_at(offset, &mut self.packet[room..])?;
        if read != length {
            return Err(Error::new(
                ErrorKind::SourceChanged,
                format!("the source ends at byte {} and had {}", offset + read as u64, work.request.size),
            ));
        }
        self.pace(length)?;
        let id = self.link.write(work.call, self.handle, offset, &mut self.packet)?;
        let range = Range { offset, length: length as u64 };
        self.flying.push_back((id, range));
        self.in_flight += range.length;
        self.unit = Range { offset: range.end(), length: self.unit.length - range.length };
        work.lock().sent += range.length;
        Ok(())
    }

    /// The throttle: bites shrink while it makes us wait long, so that a slow rate is even.
    fn pace(&mut self, bytes: usize) -> Result<()> {
        let before = Instant::now();
        self.work.call.pace(bytes as u64)?;
        let waited = before.elapsed();
        if waited > Duration::from_millis(250) {
            self.bite = (self.bite / 2).max(SMALLEST_BITE);
        } else if waited < Duration::from_millis(20) {
            self.bite = (self.bite * 2).min(self.most);
        }
        Ok(())
    }

    /// Takes the acknowledgements that are there; `patient`: waits for the oldest.
    fn collect(&mut self, patient: bool) -> Result<()> {
        let mut patient = patient;
        while let Some(&(id, range)) = self.flying.front() {
            let reply = match patient {
                true => self.link.answer(self.work.call, id)?,
                false => match self.link.answered(self.work.call, id)? {
                    Some(reply) => reply,
                    None => return Ok(()),
                },
            };
            patient = false;
            self.flying.pop_front();
            self.in_flight -= range.length;
            self.work.written(self.link, reply, range)?;
        }
        Ok(())
    }

    /// Asks for a sync when one is due, and tells the host when it came; `patient`: waits for it.
    fn checkpoint(&mut self, patient: bool) -> Result<()> {
        let work = self.work;
        if self.syncing.is_none() {
            let (done, acked, new) = {
                let state = work.lock();
                let new = state.acked - state.safe;
                if new < DUE && (new == 0 || self.last.elapsed() < INTERVAL) {
                    return Ok(());
                }
                (state.done.clone(), state.acked, new)
            };
            debug_assert!(new > 0);
            self.last = Instant::now();
            if !self.link.features.fsync {
                return self.tell(&done, acked, false);
            }
            let id =
                self.link.extended(work.call, b"fsync@openssh.com", Out::default().bytes(self.handle))?;
            self.syncing = Some((id, done, acked));
        }
        let Some((id, ..)) = &self.syncing else { return Ok(()) };
        let reply = match patient {
            true => {
                let busy = Busy {
                    call: work.call,
                    told: Cell::new(Instant::now()),
                    note: "the server writes to its disk",
                };
                self.link.answer(&busy, *id)?
            }
            false => match self.link.answered(work.call, *id)? {
                Some(reply) => reply,
                None => return Ok(()),
            },
        };
        let Some((_, done, acked)) = self.syncing.take() else { return Ok(()) };
        match reply {
            Reply::Status(OK, _) => {
                if !self.named {
                    // The file's own name has to last too.
                    let dir = work.request.staging.parent().unwrap_or_default();
                    work.sftp.sync_dir(self.link, work.call, &dir)?;
                    self.named = true;
                }
                self.tell(&done, acked, true)
            }
            Reply::Status(code, words) => Err(status("make durable", &work.request.staging, code, &words)),
            _ => Err(self.link.confused()),
        }
    }

    fn tell(&mut self, done: &Ranges, acked: u64, durable: bool) -> Result<()> {
        self.work.session.checkpoint(self.work.token, done.as_slice(), durable)?;
        self.work.lock().safe = acked;
        self.work.changed.notify_all();
        Ok(())
    }
}
