//! One SSH connection with its SFTP channel: requests go out without waiting, answers are matched by their number.
//!
//! Nothing here blocks for longer than a tenth of a second without asking whether the call should end. A connection that
//! met an error, or was left in the middle of something, is never used again.

use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind as Io, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use offsite_plugin_api::{Call, Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags};
use ssh2::{BlockDirections, Channel, ErrorCode, Session};

use super::error::session as session_error;
use super::wire::{self, In, Out, Reply, malformed};

/// How long a server may be silent while it owes an answer.
const STALL: Duration = Duration::from_secs(90);
const SLICE: Duration = Duration::from_millis(100);
/// Largest packet taken from a server, bytes; OpenSSH's are at most 256 KiB.
const LARGEST: usize = 1 << 20;
/// How long the end of a file that is given up is waited for.
const CLOSING: Duration = Duration::from_secs(30);
/// Answers nobody waits for any more, beyond which a connection is not worth keeping.
const ABANDONED: usize = 16;

/// What says whether to go on.
pub trait Watch {
    fn proceed(&self) -> Result<()>;
}

impl Watch for Call {
    fn proceed(&self) -> Result<()> {
        Call::proceed(self)
    }
}

/// Until a moment from now, whatever the call says.
pub struct Soon(pub Instant);

impl Watch for Soon {
    fn proceed(&self) -> Result<()> {
        if Instant::now() < self.0 { Ok(()) } else { Err(Error::new(ErrorKind::TimedOut, "no time is left")) }
    }
}

/// A watch, and no longer than until then.
struct Both<'a>(&'a dyn Watch, Soon);

impl Watch for Both<'_> {
    fn proceed(&self) -> Result<()> {
        self.0.proceed().and_then(|()| self.1.proceed())
    }
}

/// What the server can do beyond version 3, and how much it takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    pub posix_rename: bool,
    pub fsync: bool,
    pub statvfs: bool,
    /// Bytes of one read or write.
    pub most_read: usize,
    pub most_write: usize,
}

/// Without `limits@openssh.com`: what every server must take (section 3 of the draft).
const SAFE: usize = 32 * 1024;

pub struct Link {
    pub(super) session: Session,
    channel: Channel,
    pub(super) tcp: TcpStream,
    next: u32,
    inbox: Vec<u8>,
    answers: HashMap<u32, Reply>,
    waiting: HashSet<u32>,
    abandoned: HashSet<u32>,
    pub(super) broken: bool,
    pub features: Features,
    /// The server's product and version, as it names itself.
    pub banner: String,
    /// Last use, or sign of life; and last use.
    pub used: Instant,
    pub idle_since: Instant,
}

/// Repeats a non-blocking operation until it is done, waiting for the socket between.
pub fn drive<T>(
    session: &Session,
    tcp: &TcpStream,
    watch: &dyn Watch,
    what: &str,
    mut operation: impl FnMut() -> Result<T, ssh2::Error>,
) -> Result<T> {
    let mut heard = Instant::now();
    loop {
        match operation() {
            Ok(value) => return Ok(value),
            Err(e) if e.code() == ErrorCode::Session(libssh2_sys::LIBSSH2_ERROR_EAGAIN) => {
                wait(session, tcp, watch, what, &mut heard)?;
            }
            Err(e) => return Err(session_error(what, &e)),
        }
    }
}

/// Waits for the socket for a moment. Errors: the call should end; the server was silent for too long.
pub(super) fn wait(
    session: &Session,
    tcp: &TcpStream,
    watch: &dyn Watch,
    what: &str,
    heard: &mut Instant,
) -> Result<()> {
    watch.proceed()?;
    let flags = match session.block_directions() {
        BlockDirections::Outbound => PollFlags::OUT,
        BlockDirections::Both => PollFlags::IN | PollFlags::OUT,
        _ => PollFlags::IN,
    };
    let slice = rustix::event::Timespec { tv_sec: 0, tv_nsec: SLICE.as_nanos() as _ };
    match rustix::event::poll(&mut [PollFd::new(tcp, flags)], Some(&slice)) {
        Ok(0) if heard.elapsed() > STALL => Err(Error::new(ErrorKind::TimedOut, what)
            .with_source(format!("the server was silent for {} seconds", STALL.as_secs()))),
        Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
        Ok(_) => {
            *heard = Instant::now();
            Ok(())
        }
        Err(errno) => Err(Error::io(what, &errno.into())),
    }
}

impl Link {
    /// Starts SFTP on a session that is logged in.
    pub fn start(session: Session, tcp: TcpStream, watch: &dyn Watch) -> Result<Self> {
        const WHAT: &str = "cannot start SFTP";
        let mut channel =
            drive(&session, &tcp, watch, "cannot open a channel", || session.channel_session())?;
        drive(&session, &tcp, watch, WHAT, || channel.subsystem("sftp"))?;
        let banner = wire::plain(session.banner_bytes().unwrap_or_default());
        let features =
            Features { posix_rename: false, fsync: false, statvfs: false, most_read: SAFE, most_write: SAFE };
        let mut link = Self {
            session,
            channel,
            tcp,
            next: 0,
            inbox: Vec::new(),
            answers: HashMap::new(),
            waiting: HashSet::new(),
            abandoned: HashSet::new(),
            broken: false,
            features,
            banner,
            used: Instant::now(),
            idle_since: Instant::now(),
        };
        link.greet(watch).map_err(|e| e.with_context("while", WHAT))?;
        Ok(link)
    }

    fn greet(&mut self, watch: &dyn Watch) -> Result<()> {
        self.send(watch, &Out::default().u32(5).0)?;
        let hello = Out(vec![wire::INIT]).u32(3);
        self.send(watch, &hello.0)?;
        let packet = loop {
            match self.packet()? {
                Some(packet) => break packet,
                None => drop(self.pump(watch, true)?),
            }
        };
        let mut body = In(&packet);
        if body.take(1)?[0] != wire::VERSION || body.u32()? < 3 {
            return Err(malformed("it does not speak version 3"));
        }
        let mut limits = false;
        while !body.0.is_empty() {
            let (name, version) = (body.bytes()?, body.bytes()?);
            match (name, version) {
                (b"posix-rename@openssh.com", b"1") => self.features.posix_rename = true,
                (b"fsync@openssh.com", b"1") => self.features.fsync = true,
                (b"statvfs@openssh.com", b"2") => self.features.statvfs = true,
                (b"limits@openssh.com", b"1") => limits = true,
                _ => {}
            }
        }
        if limits {
            let id = self.extended(watch, b"limits@openssh.com", Out::default())?;
            if let Reply::Extended(body) = self.answer(watch, id)? {
                let mut body = In(&body);
                let packet = body.u64()?;
                let bounded = |value: u64| {
                    let most = if value == 0 { packet.saturating_sub(1024) } else { value };
                    most.clamp(SAFE as u64, 255 * 1024) as usize
                };
                self.features.most_read = bounded(body.u64()?);
                self.features.most_write = bounded(body.u64()?);
            }
        }
        Ok(())
    }

    /// Sends bytes of the channel, all of them.
    fn send(&mut self, watch: &dyn Watch, bytes: &[u8]) -> Result<()> {
        const WHAT: &str = "cannot send to the server";
        let mut at = 0;
        let mut heard = Instant::now();
        while at < bytes.len() {
            match self.channel.write(&bytes[at..]) {
                Ok(sent) => at += sent,
                Err(e) if e.kind() == Io::WouldBlock => {
                    // What was begun must be finished with the same bytes, or the connection is lost.
                    if let Err(error) = wait(&self.session, &self.tcp, watch, WHAT, &mut heard) {
                        self.broken = true;
                        return Err(error);
                    }
                }
                Err(e) => return Err(self.lost(WHAT, &e)),
            }
        }
        Ok(())
    }

    /// Takes in what has arrived; `patient`: waits until something has. False: nothing was there.
    fn pump(&mut self, watch: &dyn Watch, patient: bool) -> Result<bool> {
        const WHAT: &str = "cannot hear the server";
        let mut buffer = [0; 64 * 1024];
        let mut heard = Instant::now();
        loop {
            match self.channel.read(&mut buffer) {
                Ok(0) if self.channel.eof() => {
                    self.broken = true;
                    return Err(Error::new(ErrorKind::Interrupted, "the server closed the connection"));
                }
                Ok(n) if n > 0 => {
                    self.inbox.extend_from_slice(&buffer[..n]);
                    return Ok(true);
                }
                Ok(_) => {}
                Err(e) if e.kind() == Io::WouldBlock => {}
                Err(e) => return Err(self.lost(WHAT, &e)),
            }
            // A window adjustment that is half sent has to be finished first.
            let unfinished =
                matches!(self.session.block_directions(), BlockDirections::Outbound | BlockDirections::Both);
            if !patient && !unfinished {
                return Ok(false);
            }
            if let Err(error) = wait(&self.session, &self.tcp, watch, WHAT, &mut heard) {
                self.broken = true;
                return Err(error);
            }
        }
    }

    /// The code of a failure, which `std::io::Error` loses.
    fn lost(&mut self, what: &str, error: &std::io::Error) -> Error {
        self.broken = true;
        match ssh2::Error::last_session_error(&self.session) {
            Some(e) => session_error(what, &e),
            None => Error::new(ErrorKind::Interrupted, what).with_source(error.to_string()),
        }
    }

    /// The next whole packet of the inbox, without its length.
    fn packet(&mut self) -> Result<Option<Vec<u8>>> {
        let mut head = In(&self.inbox);
        let Ok(length) = head.u32() else { return Ok(None) };
        let length = length as usize;
        if length == 0 || length > LARGEST {
            self.broken = true;
            return Err(malformed(&format!("a packet of {length} bytes")));
        }
        if head.0.len() < length {
            return Ok(None);
        }
        let rest = self.inbox.split_off(4 + length);
        let mut packet = std::mem::replace(&mut self.inbox, rest);
        packet.drain(..4);
        Ok(Some(packet))
    }

    /// Sorts what has arrived.
    fn sort(&mut self, watch: &dyn Watch) -> Result<()> {
        while let Some(packet) = self.packet()? {
            let (id, reply) = wire::reply(&packet).inspect_err(|_| self.broken = true)?;
            if self.waiting.remove(&id) {
                self.answers.insert(id, reply);
            } else if !self.abandoned.remove(&id) {
                self.broken = true;
                return Err(malformed("an answer to nothing that was asked"));
            } else if let Reply::Handle(handle) = reply {
                let id = self.request(watch, wire::CLOSE, Out::default().bytes(&handle))?;
                self.abandon(id);
            }
        }
        Ok(())
    }

    /// Sends a request; its answer is fetched with [`Self::answer`] or by what builds on it.
    pub fn request(&mut self, watch: &dyn Watch, kind: u8, body: Out) -> Result<u32> {
        let id = self.number();
        let mut packet = Vec::with_capacity(body.0.len() + 9);
        packet.extend_from_slice(&(body.0.len() as u32 + 5).to_be_bytes());
        packet.push(kind);
        packet.extend_from_slice(&id.to_be_bytes());
        packet.extend_from_slice(&body.0);
        self.send(watch, &packet)?;
        self.waiting.insert(id);
        self.used = Instant::now();
        Ok(id)
    }

    fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    pub fn extended(&mut self, watch: &dyn Watch, name: &[u8], body: Out) -> Result<u32> {
        let mut all = Out::default().bytes(name);
        all.0.extend_from_slice(&body.0);
        self.request(watch, wire::EXTENDED, all)
    }

    /// Sends a write of what `packet` holds behind [`write_room`] bytes.
    pub fn write(&mut self, watch: &dyn Watch, handle: &[u8], offset: u64, packet: &mut [u8]) -> Result<u32> {
        let id = self.number();
        let room = write_room(handle);
        let length = packet.len() - room;
        let mut head = Out::default().u32((packet.len() - 4) as u32);
        head.0.push(wire::WRITE);
        let head = head.u32(id).bytes(handle).u64(offset).u32(length as u32);
        packet[..room].copy_from_slice(&head.0);
        self.send(watch, packet)?;
        self.waiting.insert(id);
        self.used = Instant::now();
        Ok(id)
    }

    /// Waits for one answer.
    pub fn answer(&mut self, watch: &dyn Watch, id: u32) -> Result<Reply> {
        loop {
            if let Some(reply) = self.answers.remove(&id) {
                return Ok(reply);
            }
            self.pump(watch, true)?;
            self.sort(watch)?;
        }
    }

    /// The answer if it is there; takes in what has arrived.
    pub fn answered(&mut self, watch: &dyn Watch, id: u32) -> Result<Option<Reply>> {
        if !self.answers.contains_key(&id) && self.pump(watch, false)? {
            self.sort(watch)?;
        }
        Ok(self.answers.remove(&id))
    }

    /// Nobody will fetch this answer.
    pub fn abandon(&mut self, id: u32) {
        if let Some(Reply::Handle(handle)) = self.answers.remove(&id) {
            self.let_go(&handle);
        }
        if self.waiting.remove(&id) {
            self.abandoned.insert(id);
        }
    }

    /// Whether nothing has gone wrong on it.
    pub fn sound(&self) -> bool {
        !self.broken
    }

    /// Closes a handle without waiting, so that a server does not keep a file open that nobody uses.
    pub fn let_go(&mut self, handle: &[u8]) {
        if self.broken {
            return;
        }
        let soon = Soon(Instant::now() + SLICE);
        if let Ok(id) = self.request(&soon, wire::CLOSE, Out::default().bytes(handle)) {
            self.abandon(id);
        }
    }

    /// Closes a file that was written to and is given up, and waits for that: a server that stores a file when it is closed
    /// must not do so after the next try has begun.
    pub fn put_away(&mut self, watch: &dyn Watch, handle: &[u8]) {
        if self.broken || watch.proceed().is_err() {
            return self.let_go(handle);
        }
        let both = Both(watch, Soon(Instant::now() + CLOSING));
        if let Ok(id) = self.request(&both, wire::CLOSE, Out::default().bytes(handle)) {
            // Whatever it says, the file is given up.
            let _ = self.answer(&both, id);
        }
    }

    /// Whether it can be used again; answers that are still owed are forgotten.
    pub fn rest(&mut self) -> bool {
        self.idle_since = Instant::now();
        for (_, answer) in std::mem::take(&mut self.answers) {
            if let Reply::Handle(handle) = answer {
                self.let_go(&handle);
            }
        }
        self.abandoned.extend(self.waiting.drain());
        !self.broken && self.abandoned.len() <= ABANDONED
    }

    /// Whether the server still holds the connection, as far as it has told.
    pub fn alive(&mut self, watch: &dyn Watch) -> bool {
        loop {
            match self.pump(watch, false) {
                Ok(true) => {
                    if self.sort(watch).is_err() {
                        return false;
                    }
                }
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
    }

    /// A sign of life for routers and servers that drop silent connections. False: the connection is lost.
    pub fn keep_alive(&mut self) -> bool {
        self.session.set_keepalive(false, 1);
        self.session.keepalive_send().is_ok()
    }
}

/// Bytes of a write's packet before its data.
pub fn write_room(handle: &[u8]) -> usize {
    4 + 1 + 4 + 4 + handle.len() + 8 + 4
}

impl Drop for Link {
    fn drop(&mut self) {
        if !self.broken {
            let _ = self.session.disconnect(None, "done", None);
        }
        // libssh2 would wait for the other end's goodbye, or keep its memory.
        let _ = self.tcp.shutdown(Shutdown::Both);
    }
}
