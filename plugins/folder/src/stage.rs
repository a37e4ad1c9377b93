//! Sending a file's bytes: several threads write disjoint pieces, one syncs and tells the host what is safe.
//!
//! At most [`UNSAFE`] bytes are written beyond the last checkpoint, and a checkpoint is taken at least every
//! [`INTERVAL`] while bytes arrive. On a local disk whole blocks are written directly: that is faster than through the
//! page cache, leaves the cache to others, and the syncs have little left to do.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use offsite_plugin_api::{
    Call, Error, ErrorKind, Level, Range, Ranges, Result, Session, Source, StageRequest, Staged, Token,
};
use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::io::Errno;

use super::change::sync;
use super::client::{Folder, Root, exists, try_mtime};
use super::error::{failed, no_space, stale};
use super::read::{ALIGNMENT, Aligned};
use super::write::StagingToken;

const MIB: u64 = 1 << 20;
/// One read and write; memory is this times the streams.
const PIECE: u64 = MIB;
/// What one stream takes at a time, so that its writes are sequential.
const UNIT: u64 = 8 * MIB;
/// Bytes after which a checkpoint is due, and beyond which writers wait for it.
const DUE: u64 = 32 * MIB;
const UNSAFE: u64 = 64 * MIB;
/// Files from this size on are written directly.
const DIRECT_FROM: u64 = 4 * MIB;
const INTERVAL: Duration = Duration::from_secs(3);
/// What is asked of the throttle at once (plugin contract: at most 256 KiB).
const ASK: u64 = 256 * 1024;
/// The first write: small, because the rate is not known. It doubles while nothing waits.
const FIRST_BITE: u64 = 16 * 1024;
/// One write: as small as a slow throttle needs to be even, as large as one read where nothing waits.
const BITE: std::ops::RangeInclusive<u64> = 4096..=PIECE;

pub fn stage(
    folder: &Folder,
    call: &Call,
    request: &StageRequest,
    source: &dyn Source,
    session: &dyn Session,
) -> Result<Staged> {
    call.proceed()?;
    let root = folder.root(true)?;
    if root.traits.largest_file.is_some_and(|largest| request.size > largest) {
        let what = format!("'{}' is larger than this file system can hold", request.path.display());
        return Err(Error::new(ErrorKind::TooLarge, what)
            .with_context("hint", "choose a target with another file system"));
    }
    let (file, token, done) = open(&root, request)?;
    let missing = done.missing(request.size);
    let work = Work {
        call,
        source,
        file: &file,
        direct: direct(&root, request, &file),
        request,
        state: Mutex::new(State {
            units: units(&missing),
            done,
            written: 0,
            safe: 0,
            writers: 0,
            failure: None,
        }),
        changed: Condvar::new(),
    };
    let streams = request.streams.clamp(1, root.traits.streams()).min(work.lock().units.len() as u32).max(1);
    if streams == 1 && missing.iter().map(|r| r.length).sum::<u64>() <= PIECE {
        // A small file is not worth a thread.
        work.write_units();
    } else {
        work.lock().writers = streams;
        std::thread::scope(|scope| {
            for _ in 0..streams {
                scope.spawn(|| {
                    work.write_units();
                    work.lock().writers -= 1;
                    work.changed.notify_all();
                });
            }
            work.take_checkpoints(&root, &token, session);
        });
    }
    let failure = work.lock().failure.take();
    if let Some(error) = failure {
        // A clean stop costs nothing: what arrived is made safe first.
        if *error.kind() == ErrorKind::Cancelled {
            work.checkpoint(&root, &token, session)?;
        }
        return Err(error);
    }
    // The time goes with the bytes: publishing then has nothing left to write to the file.
    if let Some(mtime) = request.attributes.mtime {
        let set = try_mtime(&file, mtime).map_err(|e| failed("set the time of", &request.staging, e))?;
        if !set && !folder.no_times.swap(true, Ordering::Relaxed) {
            call.log(
                Level::Warn,
                "files get the time of their upload: this user may not set another one there",
            );
        }
    }
    rustix::fs::fsync(&file).map_err(|e| failed("make durable", &request.staging, e))?;
    let stat = rustix::fs::fstat(&file).map_err(|e| failed("look at", &request.staging, e))?;
    Ok(Staged { token, size: stat.st_size as u64, digests: Vec::new() })
}

/// The staging file: the one to go on with, or a new one; and whether the rest fits.
fn open(root: &Root, request: &StageRequest) -> Result<(OwnedFd, Token, Ranges)> {
    let path = &request.staging;
    root.make_dirs(&path.parent().unwrap_or_default())?;
    let mut done = Ranges::default();
    let file = match &request.resume {
        Some(resume) => {
            let token = StagingToken::parse(&resume.token)?;
            if token.path != *path {
                return Err(stale(path, "was staged under another name"));
            }
            let file = match root.open(path, OFlags::RDWR) {
                Err(Errno::NOENT) => return Err(stale(path, "is not staged any more")),
                other => other.map_err(|e| failed("open", path, e))?,
            };
            let stat = rustix::fs::fstat(&file).map_err(|e| failed("look at", path, e))?;
            done = Ranges::from_list(&resume.ranges);
            // A second link: its publish began, and what is published is never written again.
            let whole = stat.st_size as u64 >= done.end() && done.end() <= request.size;
            if !token.is(root, &stat) || !whole || stat.st_nlink > 1 {
                return Err(stale(path, "is not what was staged"));
            }
            file
        }
        None => {
            // Always a new file: the old one may be half published, or a dying worker may still write to it.
            let create = || root.open(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL);
            let made = match create() {
                Err(Errno::EXIST) => {
                    let parent = root.parent(path).map_err(|e| failed("create", path, e))?;
                    match rustix::fs::unlinkat(&parent, path.name(), AtFlags::empty()) {
                        Ok(()) | Err(Errno::NOENT) => create(),
                        Err(Errno::ISDIR) => return Err(exists(path)),
                        Err(errno) => return Err(failed("replace", path, errno)),
                    }
                }
                other => other,
            };
            made.map_err(|e| failed("create", path, e))?
        }
    };
    let stat = rustix::fs::fstat(&file).map_err(|e| failed("look at", path, e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::new(ErrorKind::Exists, format!("'{}' is not a file", path.display())));
    }
    let left: u64 = done.missing(request.size).iter().map(|r| r.length).sum();
    let space = rustix::fs::fstatvfs(&file).map_err(|e| failed("ask the free space for", path, e))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    // A file system that tells no sizes is tried.
    if space.f_blocks > 0 && left > free {
        if request.resume.is_none()
            && let Ok(parent) = root.parent(path)
        {
            let _ = rustix::fs::unlinkat(&parent, path.name(), AtFlags::empty());
        }
        return Err(no_space(&request.path, left, free));
    }
    if stat.st_size as u64 > request.size || request.size == 0 {
        rustix::fs::ftruncate(&file, request.size).map_err(|e| failed("shorten", path, e))?;
    }
    let token = StagingToken { path: path.clone(), inode: stat.st_ino }.token();
    Ok((file, token, done))
}

/// The same file for direct writes, where that pays and the file system takes it.
fn direct(root: &Root, request: &StageRequest, file: &OwnedFd) -> Option<OwnedFd> {
    if !root.traits.direct_writes || request.size < DIRECT_FROM {
        return None;
    }
    let direct = root.open(&request.staging, OFlags::WRONLY | OFlags::DIRECT).ok()?;
    let (a, b) = (rustix::fs::fstat(&direct).ok()?, rustix::fs::fstat(file).ok()?);
    (a.st_ino == b.st_ino).then_some(direct)
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

struct State {
    /// What is left to do, the next one last.
    units: Vec<Range>,
    /// Written, and named in the next checkpoint.
    done: Ranges,
    /// Bytes written by this call, and those of them that a checkpoint covers.
    written: u64,
    safe: u64,
    writers: u32,
    failure: Option<Error>,
}

struct Work<'a> {
    call: &'a Call,
    source: &'a dyn Source,
    file: &'a OwnedFd,
    direct: Option<OwnedFd>,
    request: &'a StageRequest,
    state: Mutex<State>,
    changed: Condvar,
}

impl Work<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A writer: takes units until none is left or something failed.
    fn write_units(&self) {
        let mut buffer = Aligned::new(PIECE.min(self.request.size.max(1)) as usize);
        let mut bite = FIRST_BITE;
        loop {
            let unit = {
                let mut state = self.lock();
                // A single small file has no checkpointer to wait for.
                while state.writers > 0 && state.written - state.safe > UNSAFE && state.failure.is_none() {
                    let (next, _) = self
                        .changed
                        .wait_timeout(state, Duration::from_millis(500))
                        .unwrap_or_else(PoisonError::into_inner);
                    state = next;
                    if self.call.proceed().is_err() {
                        break;
                    }
                }
                if state.failure.is_some() {
                    return;
                }
                match state.units.pop() {
                    Some(unit) => unit,
                    None => return,
                }
            };
            if let Err(error) = self.write_unit(unit, buffer.bytes(), &mut bite) {
                let mut state = self.lock();
                state.failure.get_or_insert(error);
                self.changed.notify_all();
                return;
            }
        }
    }

    fn write_unit(&self, unit: Range, buffer: &mut [u8], bite: &mut u64) -> Result<()> {
        let mut at = unit.offset;
        while at < unit.end() {
            self.call.proceed()?;
            if self.lock().failure.is_some() {
                return Ok(());
            }
            // Up to the next block first, so that what follows is aligned.
            let block = ALIGNMENT as u64;
            let most = if at.is_multiple_of(block) { buffer.len() as u64 } else { block - at % block };
            let length = (unit.end() - at).min(most) as usize;
            let piece = &mut buffer[..length];
            let read = self.source.read_at(at, piece)?;
            if read != length {
                return Err(Error::new(
                    ErrorKind::SourceChanged,
                    format!("the source ends at byte {} and had {}", at + read as u64, self.request.size),
                ));
            }
            let mut offset = 0;
            while offset < length {
                let size = (length - offset).min(*bite as usize);
                self.pace(size as u64, bite)?;
                self.write(&piece[offset..offset + size], at + offset as u64)
                    .map_err(|e| failed("write", &self.request.staging, e))?;
                self.call.acked(size as u64);
                let mut state = self.lock();
                state.done.insert(Range { offset: at + offset as u64, length: size as u64 });
                state.written += size as u64;
                if state.written - state.safe >= DUE {
                    self.changed.notify_all();
                }
                drop(state);
                offset += size;
            }
            at += length as u64;
        }
        Ok(())
    }

    /// Whole blocks directly, the rest (a file's tail, the edges of resumed ranges) through the page cache.
    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), Errno> {
        let blocks = bytes.len() - bytes.len() % ALIGNMENT;
        let Some(direct) =
            self.direct.as_ref().filter(|_| blocks > 0 && offset.is_multiple_of(ALIGNMENT as u64))
        else {
            return write_all(self.file, bytes, offset);
        };
        match write_all(direct, &bytes[..blocks], offset) {
            // A disk with larger blocks, or a file system that changed its mind.
            Err(Errno::INVAL) => write_all(self.file, bytes, offset),
            Ok(()) if blocks < bytes.len() => write_all(self.file, &bytes[blocks..], offset + blocks as u64),
            other => other,
        }
    }

    /// The throttle: bites shrink while it makes us wait long, so that a slow rate is even.
    fn pace(&self, bytes: u64, bite: &mut u64) -> Result<()> {
        let before = Instant::now();
        let mut left = bytes;
        while left > 0 {
            self.call.pace(left.min(ASK))?;
            left -= left.min(ASK);
        }
        let waited = before.elapsed();
        if waited > Duration::from_millis(250) {
            *bite = (*bite / 2).max(*BITE.start());
        } else if waited < Duration::from_millis(20) {
            *bite = (*bite * 2).min(*BITE.end());
        }
        Ok(())
    }

    /// The calling thread while writers are at work.
    fn take_checkpoints(&self, root: &Root, token: &Token, session: &dyn Session) {
        let mut last = Instant::now();
        loop {
            let mut state = self.lock();
            if state.writers == 0 || state.failure.is_some() {
                return;
            }
            let new = state.written - state.safe;
            if new < DUE && (new == 0 || last.elapsed() < INTERVAL) {
                state = self
                    .changed
                    .wait_timeout(state, Duration::from_millis(500))
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
                if self.call.proceed().is_err() {
                    // The writers meet it too; none may wait for a checkpoint that does not come.
                    self.changed.notify_all();
                }
                continue;
            }
            drop(state);
            if let Err(error) = self.checkpoint(root, token, session) {
                self.lock().failure.get_or_insert(error);
            }
            self.changed.notify_all();
            last = Instant::now();
        }
    }

    /// What was written before the sync is safe after it.
    fn checkpoint(&self, root: &Root, token: &Token, session: &dyn Session) -> Result<()> {
        let (done, written, first) = {
            let state = self.lock();
            (state.done.clone(), state.written, state.safe == 0)
        };
        rustix::fs::fdatasync(self.file).map_err(|e| failed("make durable", &self.request.staging, e))?;
        if first {
            // The file's own name has to last too.
            let path = &self.request.staging;
            let parent = root.parent(path).map_err(|e| failed("make durable", path, e))?;
            sync(&parent, path)?;
        }
        session.checkpoint(token, done.as_slice(), root.traits.durable)?;
        self.lock().safe = written;
        Ok(())
    }
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
