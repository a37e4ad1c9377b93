//! Sending a file's bytes: one STOR from where the server's copy ends, to the file's end.
//!
//! The server acknowledges nothing before the end. So a second session asks for the size of the growing file: what the server
//! shows there it has taken, which is what progress and checkpoints say. Where it lets nobody in a second time, the
//! upload goes on without. A broken one is taken up by REST and STOR, or by APPE where the copy ends at the checkpoint.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use offsite_plugin_api::{
    Call, EntryKind, Error, ErrorKind, Level, Range, Result, Retry, Session as Stage, Source, StageRequest,
    Staged,
};
use suppaftp::{DataStream, TlsStream};

use super::change::{make_dirs, set_time};
use super::client::{Ftp, look};
use super::error::{Fault, failed, shown, stale};
use super::names::{below, carried};
use super::pool::Lease;
use super::reply::Reply;
use super::session::{Session, Transfer};
use super::watch::watched;
use super::write::StagingToken;

const MIB: u64 = 1 << 20;
/// Bytes and time after which a checkpoint is due.
const DUE: u64 = 24 * MIB;
const INTERVAL: Duration = Duration::from_secs(4);
/// When the size of the growing file is asked, and from which size of the file on.
const ASK: Duration = Duration::from_millis(500);
const ASK_AFTER: u64 = 8 * MIB;
const ASKED: u64 = 8 * MIB;
/// What may be under way beyond the last checkpoint, where the server shows the size: what a kill costs at most.
const AHEAD: u64 = 60 * MIB;
/// When a server that took no second session is asked for one again.
const AGAIN: Duration = Duration::from_secs(10);
/// A short wait for the other thread.
const TICK: Duration = Duration::from_millis(5);
/// What is given to the socket at once (plugin contract: at most 256 KiB); less while the throttle makes us wait.
const LARGEST_BITE: usize = 256 * 1024;
const FIRST_BITE: usize = 64 * 1024;
const SMALLEST_BITE: usize = 4096;
/// How long the last of an interrupted upload may take to arrive in the server's file.
const SETTLES: Duration = Duration::from_secs(5);
/// For the server's disk, when all is sent.
const FINISHING: Duration = Duration::from_secs(600);
/// How long the data connection takes nothing before the other one is listened to.
const STALLED: Duration = Duration::from_secs(2);
const ALIVE: Duration = Duration::from_secs(10);

pub fn stage(
    ftp: &Ftp,
    call: &Call,
    request: &StageRequest,
    source: &dyn Source,
    session: &dyn Stage,
) -> Result<Staged> {
    call.proceed()?;
    carried(&request.path)?;
    make_dirs(ftp, call, &request.staging.parent().unwrap_or_default())?;
    let mut lease = ftp.shared.lease(call)?;
    let (offset, held) = begin(ftp, &mut lease, call, request)?;
    let work = Work {
        ftp,
        call,
        request,
        session,
        offset,
        // What is there beyond the offset is of an earlier try and proves nothing.
        before: held,
        shown: AtomicU64::new(offset),
        sent: AtomicU64::new(offset),
        asks: AtomicBool::new(false),
    };
    let mut sending =
        Sending { sent: offset, acked: offset, safe: offset, last: Instant::now(), bite: FIRST_BITE };
    let sent = std::thread::scope(|scope| {
        let (stop, stopped) = channel::<()>();
        if request.size - offset >= ASKED {
            work.asks.store(true, Ordering::Relaxed);
            scope.spawn(|| work.ask(stopped));
        }
        let result = work.send(&mut lease, source, &mut sending);
        drop(stop);
        result
    });
    if let Err(error) = sent {
        // What arrived stays; only less would be sent again if more was known.
        if error.kind() != &ErrorKind::SourceChanged {
            let _ = work.checkpoint(&mut sending);
        }
        return Err(error);
    }
    finish(ftp, call, request, lease, &work, &sending)
}

/// Where to go on, and what the server holds there.
fn begin(ftp: &Ftp, session: &mut Session, call: &Call, request: &StageRequest) -> Result<(u64, u64)> {
    let path = &request.staging;
    let what = shown(path);
    let Some(resume) = &request.resume else {
        // Always a new file: somebody who died may still write to the old one.
        ftp.shared.with(session, call, "create", &what, |session| {
            let at = below(&session.root, path);
            session.command(&format!("DELE {at}")).map(drop)
        })?;
        return Ok((0, 0));
    };
    if StagingToken::parse(&resume.token)?.path != *path {
        return Err(stale(path, "was staged under another name"));
    }
    let [Range { offset: 0, length }] = resume.ranges[..] else {
        return Err(stale(path, "was staged in pieces"));
    };
    let begun = Instant::now();
    loop {
        let facts = ftp.shared.with(session, call, "look at", &what, |session| look(session, path))?;
        let held = match facts {
            Some(facts) if facts.kind == EntryKind::File => facts.size.unwrap_or(0),
            _ => return Err(stale(path, "is not staged any more")),
        };
        if held > request.size || length > request.size {
            return Err(stale(path, "is not what was staged"));
        }
        if held >= length {
            return Ok((length, held));
        }
        if begun.elapsed() > SETTLES {
            return Err(stale(path, "holds less than was staged"));
        }
        std::thread::sleep(Duration::from_millis(200));
        call.proceed()?;
    }
}

struct Work<'a> {
    ftp: &'a Ftp,
    call: &'a Call,
    request: &'a StageRequest,
    session: &'a dyn Stage,
    offset: u64,
    before: u64,
    /// The size that the server showed last, or the offset.
    shown: AtomicU64,
    /// What the socket was given.
    sent: AtomicU64,
    /// Whether somebody asks for it.
    asks: AtomicBool,
}

/// Who ended an upload: this side (cancelled, the source failed), or the other.
enum Stopped {
    Here(Error),
    There(std::io::Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Here(error)
    }
}

struct Sending {
    /// Offsets in the file: given to the socket, told the host as acknowledged, named by a checkpoint.
    sent: u64,
    acked: u64,
    safe: u64,
    last: Instant,
    bite: usize,
}

impl Work<'_> {
    /// Asks for the size until it is told to stop, on a session of its own. Where the server takes no more sessions it tries
    /// again later: nobody waits for one that an upload holds.
    fn ask(&self, stop: Receiver<()>) {
        let what = shown(&self.request.staging);
        let mut told = false;
        let lease = loop {
            match self.ftp.shared.another(self.call) {
                Ok(lease) => break lease,
                Err(error) if *error.kind() != ErrorKind::Busy || self.call.proceed().is_err() => {
                    return self.unasked(&error);
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        self.unasked(&error);
                    }
                }
            }
            if stop.recv_timeout(AGAIN) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        };
        self.asks.store(true, Ordering::Relaxed);
        let asked = move || -> Result<()> {
            let mut lease = lease;
            let mut asked = (Instant::now(), self.offset);
            while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(TICK) {
                let sent = self.sent.load(Ordering::Relaxed);
                if asked.0.elapsed() < ASK && sent - asked.1 < ASK_AFTER {
                    continue;
                }
                asked = (Instant::now(), sent);
                let size = self.ftp.shared.with(&mut lease, self.call, "look at", &what, |session| {
                    let reply =
                        session.done(&format!("SIZE {}", below(&session.root, &self.request.staging)))?;
                    Ok(std::str::from_utf8(reply.rest()).ok().and_then(|text| text.trim().parse().ok()))
                })?;
                if let Some(size) = size.filter(|size| *size > self.before) {
                    self.shown.fetch_max(size, Ordering::Relaxed);
                }
            }
            Ok(())
        };
        if let Err(error) = asked() {
            self.unasked(&error);
        }
    }

    fn unasked(&self, why: &Error) {
        self.asks.store(false, Ordering::Relaxed);
        if self.call.proceed().is_ok() {
            let text = format!(
                "the size of a growing file cannot be asked, so this upload could not be taken up: {why}"
            );
            self.call.log(Level::Info, &text);
        }
    }

    fn send(&self, session: &mut Session, source: &dyn Source, sending: &mut Sending) -> Result<()> {
        let sockets = session.sockets.clone();
        let what = shown(&self.request.path);
        // The waits of the end have their own word; before it, the bytes tell.
        watched(self.call, &sockets, None, || {
            let mut transfer = self.open(session)?;
            match self.pump(session, &mut transfer, source, sending) {
                Ok(()) => Ok(transfer),
                Err(Stopped::Here(error)) => {
                    session.abandon(transfer);
                    Err(error)
                }
                Err(Stopped::There(error)) => {
                    // A server that refuses the rest says why on the other connection.
                    let fault = match session.finish(transfer) {
                        Err(fault @ Fault::Said(_)) => fault,
                        _ => Fault::Socket(error),
                    };
                    session.spoil();
                    Err(self.refused(session, &what, &fault))
                }
            }
        })
        .and_then(|transfer| self.end(session, transfer, &what))
    }

    fn pump(
        &self,
        session: &Session,
        to: &mut Transfer,
        source: &dyn Source,
        sending: &mut Sending,
    ) -> Result<(), Stopped> {
        socket_of(to).set_write_timeout(Some(STALLED)).map_err(Stopped::There)?;
        let mut told = Instant::now();
        let mut buffer = vec![0; LARGEST_BITE];
        while sending.sent < self.request.size {
            self.call.proceed()?;
            let length = (self.request.size - sending.sent).min(sending.bite as u64) as usize;
            let piece = &mut buffer[..length];
            let read = source.read_at(sending.sent, piece)?;
            if read != length {
                let ends = sending.sent + read as u64;
                let message = format!("the source ends at byte {ends} and had {}", self.request.size);
                return Err(Stopped::Here(Error::new(ErrorKind::SourceChanged, message)));
            }
            self.pace(sending, length)?;
            self.write(session, to, piece)?;
            sending.sent += length as u64;
            self.sent.store(sending.sent, Ordering::Relaxed);
            self.tell(sending)?;
            self.keep_near(sending)?;
            if !self.asks.load(Ordering::Relaxed) && told.elapsed() > ALIVE {
                self.call.alive("sending to a server that acknowledges nothing before the end");
                told = Instant::now();
            }
        }
        // What TLS still holds of it, and its farewell, go at the line's own pace.
        socket_of(to).set_write_timeout(Some(FINISHING)).map_err(Stopped::There)?;
        Ok(())
    }

    /// A server that has given up may leave the data connection open and read no more of it: it says so on the other one.
    fn write(&self, session: &Session, to: &mut Transfer, mut piece: &[u8]) -> Result<(), Stopped> {
        use std::io::ErrorKind as K;
        let timeout = self.ftp.shared.config.timeout;
        let mut moved = Instant::now();
        while !piece.is_empty() {
            match to.write(piece) {
                Ok(0) => return Err(Stopped::There(K::WriteZero.into())),
                Ok(written) => {
                    piece = &piece[written..];
                    moved = Instant::now();
                }
                Err(error) if error.kind() == K::Interrupted => {}
                Err(error) if matches!(error.kind(), K::WouldBlock | K::TimedOut) => {
                    self.call.proceed()?;
                    if session.spoken(timeout) || moved.elapsed() > timeout {
                        return Err(Stopped::There(error));
                    }
                }
                Err(error) => return Err(Stopped::There(error)),
            }
        }
        Ok(())
    }

    /// The data connection, at the offset.
    fn open(&self, session: &mut Session) -> Result<Transfer> {
        let at = below(&session.root, &self.request.staging);
        let shared = &self.ftp.shared;
        let fault = match session.transfer(shared, &format!("STOR {at}"), self.offset) {
            Ok(transfer) => return Ok(transfer),
            Err(fault) => fault,
        };
        let refused = matches!(fault.code(), Some(450..=451 | 500..=504 | 550..=554));
        if self.offset > 0 && refused {
            if self.before == self.offset
                && let Ok(transfer) = session.transfer(shared, &format!("APPE {at}"), 0)
            {
                return Ok(transfer);
            }
            self.call.proceed()?;
            return Err(self.not_taken_up(&fault));
        }
        Err(shared.told(session, self.call, "write", &shown(&self.request.path), &fault))
    }

    /// The error of an upload that the server did not take. Some open the connection first, and then cannot go on with a file.
    fn refused(&self, session: &mut Session, what: &str, fault: &Fault) -> Error {
        let unable = |reply: &Reply| {
            matches!(reply.code, 500..=504)
                || reply.says(&["not implemented", "not supported", "unsupported"])
        };
        match fault {
            Fault::Said(reply) if self.offset > 0 && unable(reply) => self.not_taken_up(fault),
            _ => self.ftp.shared.told(session, self.call, "write", what, fault),
        }
    }

    fn not_taken_up(&self, fault: &Fault) -> Error {
        let why = failed("go on with", &shown(&self.request.path), fault);
        let text = format!("this server takes up no uploads (ProFTPD: AllowStoreRestart): {why}");
        self.call.log(Level::Warn, &text);
        stale(&self.request.staging, "cannot be gone on with on this server")
    }

    /// A server that takes bytes faster than it shows them is waited for: a checkpoint must not fall far behind.
    fn keep_near(&self, sending: &mut Sending) -> Result<()> {
        let begun = Instant::now();
        // Up to what an earlier try left, the size shows nothing of this one: no wait would end.
        while sending.sent > sending.safe.max(self.before) + AHEAD && self.asks.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
            self.call.proceed()?;
            self.tell(sending)?;
            if begun.elapsed() > self.ftp.shared.config.timeout {
                // It shows the size only when all is there, as some do.
                self.asks.store(false, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// The throttle: bites shrink while it makes us wait long, so that a slow rate is even.
    fn pace(&self, sending: &mut Sending, length: usize) -> Result<()> {
        let before = Instant::now();
        self.call.pace(length as u64)?;
        let waited = before.elapsed();
        if waited > Duration::from_millis(250) {
            sending.bite = (sending.bite / 2).max(SMALLEST_BITE);
        } else if waited < Duration::from_millis(20) {
            sending.bite = (sending.bite * 2).min(LARGEST_BITE);
        }
        Ok(())
    }

    /// Progress, and a checkpoint when it is due.
    fn tell(&self, sending: &mut Sending) -> Result<()> {
        let held = self.shown.load(Ordering::Relaxed).min(sending.sent);
        if held > sending.acked {
            self.call.acked(held - sending.acked);
            sending.acked = held;
        }
        let new = sending.acked - sending.safe;
        if new >= DUE || new > 0 && sending.last.elapsed() >= INTERVAL {
            self.checkpoint(sending)?;
        }
        Ok(())
    }

    fn checkpoint(&self, sending: &mut Sending) -> Result<()> {
        if sending.acked > sending.safe {
            let token = StagingToken::begun(&self.request.staging).token();
            self.session.checkpoint(&token, &[Range { offset: 0, length: sending.acked }], false)?;
            sending.safe = sending.acked;
            sending.last = Instant::now();
        }
        Ok(())
    }

    /// The end of the upload. A control connection that was forgotten on the way (firewalls do that) says nothing of
    /// the file: its size does, asked in a new session.
    fn end(&self, session: &mut Session, transfer: Transfer, what: &str) -> Result<()> {
        let sockets = session.sockets.clone();
        session.patience(FINISHING);
        let ended =
            watched(self.call, &sockets, Some("waiting for the server's disk"), || session.finish(transfer));
        session.patience(self.ftp.shared.config.timeout);
        match ended {
            Ok(()) => Ok(()),
            Err(fault @ Fault::Said(_)) if fault.code() != Some(421) => {
                Err(self.refused(session, what, &fault))
            }
            Err(fault) => {
                let error = self.ftp.shared.told(session, self.call, "write", what, &fault);
                self.call.proceed()?;
                // It counts among those that the server takes at once.
                session.sockets.shut();
                match self.ftp.look(self.call, &self.request.staging)? {
                    Some(facts) if facts.size == Some(self.request.size) => {
                        self.call
                            .log(Level::Info, "the server's last answer was lost; the file is there in full");
                        Ok(())
                    }
                    _ => Err(error),
                }
            }
        }
    }
}

fn socket_of(transfer: &Transfer) -> &TcpStream {
    match transfer.get_ref() {
        DataStream::Tcp(socket) => socket,
        DataStream::Ssl(secured) => secured.get_ref(),
    }
}

/// What the server took is never believed: its size is asked for afterwards.
fn finish<'a>(
    ftp: &'a Ftp,
    call: &Call,
    request: &StageRequest,
    mut lease: Lease<'a>,
    work: &Work<'_>,
    sending: &Sending,
) -> Result<Staged> {
    let (path, what) = (&request.staging, shown(&request.path));
    if !lease.usable() {
        drop(lease);
        lease = ftp.shared.lease(call)?;
    }
    let facts = ftp.shared.with(&mut lease, call, "finish", &what, |session| {
        if let Some(mtime) = request.attributes.mtime {
            let at = below(&session.root, path);
            set_time(session, &at, mtime.ns)?;
        }
        look(session, path)
    })?;
    let held = facts.as_ref().and_then(|facts| facts.size).unwrap_or(0);
    let Some(facts) = facts.filter(|facts| facts.size == Some(request.size)) else {
        let message = format!("the server took {what} and holds {held} bytes of {}", request.size);
        return Err(Error::new(ErrorKind::Corrupt, message).with_retry(Retry::Now));
    };
    if request.size > sending.acked {
        work.call.acked(request.size - sending.acked);
    }
    let token = StagingToken::of(path, &facts).token();
    let mut fresh = ftp.fresh();
    // Only what a run has staged and not published yet is in there; a forgotten one costs one more look.
    if fresh.len() > 10_000 {
        fresh.clear();
    }
    fresh.insert(token.clone());
    Ok(Staged { token, size: request.size, digests: Vec::new() })
}
