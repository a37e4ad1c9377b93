//! One connection at work on a staging file: keeps a window of writes in flight, and, if it is the first, takes the
//! checkpoints.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use offsite_plugin_api::{Error, ErrorKind, Range, Ranges, Result};

use super::client::got_dir;
use super::digest::Busy;
use super::error::{OK, status};
use super::link::{Link, write_room};
use super::stage::Work;
use super::wire::{Out, Reply};

const MIB: u64 = 1 << 20;
/// Writes in flight on one connection: twice what sshd's window lets through.
const WINDOW: u64 = 4 * MIB;
/// Bytes after which a checkpoint is due, and beyond which writers wait for it: what is in flight counts, too, on a far line
/// with eight connections half of that.
const DUE: u64 = 16 * MIB;
const UNSAFE: u64 = 64 * MIB;
const INTERVAL: Duration = Duration::from_secs(3);
/// libssh2 sends at most so much of a channel in one packet: writes are made to fill whole ones.
const PACKET: usize = 32_700;
/// The first write: small, because the rate is not known. It doubles while nothing waits.
const FIRST_BITE: usize = 16 * 1024;
const SMALLEST_BITE: usize = 4096;

/// One connection at work.
pub struct Stream<'w, 'l> {
    work: &'w Work<'w>,
    link: &'l mut Link,
    handle: &'l [u8],
    /// What is left of the unit in hand.
    pub unit: Range,
    pub flying: VecDeque<(u32, Range)>,
    in_flight: u64,
    /// Where a new file ends so far, as long as this connection writes it in its order.
    end: Option<u64>,
    packet: Vec<u8>,
    bite: usize,
    most: usize,
    /// A sync that was asked for, and what it will make safe.
    syncing: Option<(u32, Ranges, u64)>,
    last: Instant,
    name: Name,
}

/// The staging file's own name has to last, too, before a checkpoint names its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Unasked,
    /// The directory is being opened; it is being synced.
    Opening(u32),
    Syncing(u32),
    Lasting,
}

impl<'w, 'l> Stream<'w, 'l> {
    pub fn new(work: &'w Work<'w>, link: &'l mut Link, handle: &'l [u8]) -> Self {
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
            end: None,
            packet: Vec::new(),
            bite: FIRST_BITE.min(most),
            most,
            syncing: None,
            last: Instant::now(),
            name: Name::Unasked,
        }
    }

    /// Writes until nothing is left; `first`: takes the checkpoints, and stays until the helpers are done.
    pub fn run(&mut self, first: bool) -> Result<()> {
        let work = self.work;
        self.end = (first && work.request.resume.is_none()).then_some(0);
        if first && self.link.features.fsync && work.request.size > DUE {
            // Long before it is needed.
            self.make_name_last(false)?;
        }
        loop {
            work.call.proceed()?;
            if work.lock().failure.is_some() {
                return Ok(());
            }
            if first {
                self.checkpoint(false)?;
            }
            let more = self.take_unit();
            if more && self.in_flight < self.window() && !self.must_wait() {
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

    /// A server that takes a file's bytes only in their order is found out by one write, not by a window of them.
    fn window(&self) -> u64 {
        let tried = self.end == Some(self.unit.offset) || self.work.sftp.pieces.load(Ordering::Relaxed);
        if tried { WINDOW } else { 1 }
    }

    fn must_wait(&self) -> bool {
        let state = self.work.lock();
        state.sent - state.safe > UNSAFE
    }

    /// Sends the next piece of the unit.
    pub fn send_piece(&mut self) -> Result<()> {
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
        if self.end == Some(offset) {
            self.end = Some(range.end());
        }
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
            if self.end.is_none_or(|end| range.end() > end) {
                self.work.sftp.pieces.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Asks for a sync when one is due, and tells the host when it came; `patient`: waits for it.
    fn checkpoint(&mut self, patient: bool) -> Result<()> {
        let work = self.work;
        if matches!(self.name, Name::Opening(_) | Name::Syncing(_)) {
            self.make_name_last(false)?;
        }
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
                self.make_name_last(true)?;
                self.tell(&done, acked, true)
            }
            Reply::Status(code, words) => Err(status("make durable", &work.request.staging, code, &words)),
            _ => Err(self.link.confused()),
        }
    }

    /// As far as it goes without waiting; `patient`: to its end.
    fn make_name_last(&mut self, patient: bool) -> Result<()> {
        let work = self.work;
        let dir = work.request.staging.parent().unwrap_or_default();
        while self.name != Name::Lasting {
            let (Name::Opening(id) | Name::Syncing(id)) = self.name else {
                let asked = work.sftp.ask_dir(self.link, work.call, &dir)?;
                self.name = asked.map_or(Name::Lasting, Name::Opening);
                continue;
            };
            let reply = match patient {
                true => self.link.answer(work.call, id)?,
                false => match self.link.answered(work.call, id)? {
                    Some(reply) => reply,
                    None => return Ok(()),
                },
            };
            self.name = match reply {
                Reply::Handle(handle) => {
                    let body = Out::default().bytes(&handle);
                    let sync = self.link.extended(work.call, b"fsync@openssh.com", body)?;
                    self.link.let_go(&handle);
                    Name::Syncing(sync)
                }
                Reply::Status(OK, _) => Name::Lasting,
                Reply::Status(code, words) => {
                    got_dir::<()>(Err(status("make durable", &dir, code, &words)))?;
                    Name::Lasting
                }
                _ => return Err(self.link.confused()),
            };
        }
        Ok(())
    }

    fn tell(&mut self, done: &Ranges, acked: u64, durable: bool) -> Result<()> {
        self.work.session.checkpoint(self.work.token, done.as_slice(), durable)?;
        self.work.lock().safe = acked;
        self.work.changed.notify_all();
        Ok(())
    }
}
