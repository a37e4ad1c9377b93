//! Reading a source file for one transfer: every block hashed once, every byte handed out accounted for.
//!
//! A plugin reads where and as it likes. Where it reads a block from its start onward, the bytes go from the disk
//! straight into its buffer and through the block's hasher on its own thread: no copy, no second read. Anything else
//! (a part again, from the middle, backwards) is served from whole blocks that are read, hashed, compared with what
//! was handed out before, and kept in a small cache shared by all of a worker's files. A block that hashes otherwise
//! than before, a file that got shorter, or one whose size or modification time moved is `SourceChanged`.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use offsite_plugin_api::{Error, ErrorKind, Result, Source, TargetPath};
use rustix::fs::{Advice, Mode, OFlags, ResolveFlags};

use super::blocks::{BlockHash, Hashes, Layout};
use super::source_file::{Folder, Opened};
use crate::format::signature;
use crate::source::SourceFile;

/// Blocks begun and not finished per file before further ones are read whole: bounds their hashers' memory.
const MOST_OPEN: usize = 64;
/// Bytes of whole blocks kept by one worker.
const CACHE_BYTES: u64 = 24 << 20;

/// The opened source folder: files are opened beneath it, never through a link.
pub struct SourceRoot(Box<dyn Folder>);

/// A folder of this machine.
struct OnDisk {
    fd: OwnedFd,
    display: String,
    path: std::path::PathBuf,
    device: u64,
    inode: u64,
}

impl SourceRoot {
    /// `device`, `inode`: the folder as it was scanned. Errors: `SourceChanged` where another folder (an empty mount
    /// point) is there now.
    pub fn open(path: &Path, device: u64, inode: u64) -> Result<Self> {
        OnDisk::open(path, device, inode).map(|folder| Self(Box::new(folder)))
    }

    /// For tests: a folder that is not on this machine.
    #[cfg(test)]
    pub fn simulated(folder: impl Folder + 'static) -> Self {
        Self(Box::new(folder))
    }

    /// Whether the folder is still what has its path. Errors: `Source`, when it vanished or was unmounted.
    pub fn still_there(&self) -> crate::error::Result<()> {
        self.0.still_there()
    }
}

impl OnDisk {
    fn open(path: &Path, device: u64, inode: u64) -> Result<Self> {
        let display = path.display().to_string();
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| {
                Error::io("cannot open the source folder", &e.into()).with_context("path", &*display)
            })?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| {
            Error::io("cannot read the source folder", &e.into()).with_context("path", &*display)
        })?;
        if (stat.st_dev, stat.st_ino) != (device, inode) {
            return Err(Error::new(
                ErrorKind::SourceChanged,
                "the source folder is not the one that was scanned",
            )
            .with_context("path", display));
        }
        Ok(Self { fd, display, path: path.to_owned(), device, inode })
    }

    fn walk(&self, path: &TargetPath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let mut parts: Vec<&[u8]> = path.components().collect();
        let name = parts.pop().unwrap_or_default();
        let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at: Option<OwnedFd> = None;
        for part in parts {
            let parent = at.as_ref().unwrap_or(&self.fd);
            at = Some(rustix::fs::openat(parent, part, dir, Mode::empty())?);
        }
        rustix::fs::openat(at.as_ref().unwrap_or(&self.fd), name, flags, Mode::empty())
    }
}

impl Folder for OnDisk {
    fn still_there(&self) -> crate::error::Result<()> {
        Self::open(&self.path, self.device, self.inode).map(|_| ()).map_err(|e| {
            crate::error::Error::new(crate::error::Kind::Source, "the source folder is not there any more")
                .on(self.display.clone())
                .because(e)
                .hint("mount it again; the next run goes on from here")
        })
    }

    fn open_file(&self, path: &TargetPath) -> Result<Box<dyn Opened>> {
        let what = || format!("cannot open '{}' in the source {}", path.display(), self.display);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let opened = match rustix::fs::openat2(&self.fd, path.as_bytes(), flags, Mode::empty(), resolve) {
            // An old kernel, or a sandbox without it: go down directory by directory.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => self.walk(path, flags),
            other => other,
        };
        Ok(Box::new(File::from(opened.map_err(|e| Error::io(what(), &e.into()))?)))
    }
}

type Cached = (u64, u64, Arc<Vec<u8>>);

/// Whole blocks read lately, over all files of a worker.
#[derive(Default)]
pub struct BlockCache {
    blocks: Mutex<VecDeque<Cached>>,
    readers: AtomicU64,
}

impl BlockCache {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Cached>> {
        self.blocks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn get(&self, reader: u64, index: u64) -> Option<Arc<Vec<u8>>> {
        let mut blocks = self.lock();
        let at = blocks.iter().position(|(r, i, _)| (*r, *i) == (reader, index))?;
        let hit = blocks.remove(at)?;
        let bytes = hit.2.clone();
        blocks.push_back(hit);
        Some(bytes)
    }

    fn put(&self, reader: u64, index: u64, bytes: Arc<Vec<u8>>) {
        let mut blocks = self.lock();
        blocks.push_back((reader, index, bytes));
        let mut held: u64 = blocks.iter().map(|b| b.2.len() as u64).sum();
        while held > CACHE_BYTES && blocks.len() > 1 {
            held -= blocks.pop_front().map_or(0, |b| b.2.len() as u64);
        }
    }

    fn forget(&self, reader: u64) {
        self.lock().retain(|(r, _, _)| *r != reader);
    }
}

/// A block whose first bytes were handed out.
enum Begun {
    /// A thread is reading on.
    Busy,
    At {
        hasher: Box<blake3::Hasher>,
        next: u64,
    },
}

struct State {
    hashes: Hashes,
    begun: HashMap<u64, Begun>,
    /// Blocks whose value was found since the last call of [`SourceReader::take_fresh`].
    fresh: Vec<u64>,
}

/// One source file, open for one transfer.
pub struct SourceReader {
    file: Box<dyn Opened>,
    path: TargetPath,
    layout: Layout,
    mtime_ns: i64,
    ctime_ns: i64,
    inode: u64,
    state: Mutex<State>,
    cache: Arc<BlockCache>,
    id: u64,
    drop_behind: bool,
}

impl SourceReader {
    /// Errors: `SourceChanged` when the file is not what the scan saw (size, modification and change time), or gone. Not the
    /// inode: some network file systems number a file anew whenever they look at it.
    pub fn open(root: &SourceRoot, scanned: &SourceFile, cache: Arc<BlockCache>) -> Result<Self> {
        let file = root.0.open_file(&scanned.path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => changed(&scanned.path, "it is gone"),
            // A sharing violation, on shares that have such.
            ErrorKind::Busy => changed(&scanned.path, "another program has it open"),
            _ => e,
        })?;
        let meta =
            file.attributes().map_err(|e| Error::io("cannot read the source file's attributes", &e))?;
        if !meta.regular {
            return Err(changed(&scanned.path, "it is no regular file any more"));
        }
        let (mtime_ns, ctime_ns) = (meta.mtime_ns, meta.ctime_ns);
        // A change time of zero: the scan found that it says nothing on this file system.
        let moved = scanned.ctime_ns != 0 && ctime_ns != scanned.ctime_ns;
        if (meta.size, mtime_ns) != (scanned.size, scanned.mtime_ns) || moved {
            return Err(changed(&scanned.path, "it is not what the scan saw"));
        }
        let layout = Layout::new(scanned.size);
        // Read once and in order: do not push what the machine works with out of its page cache.
        file.advise(0, 0, Advice::Sequential);
        file.advise(0, 0, Advice::NoReuse);
        let id = cache.readers.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            file,
            path: scanned.path.clone(),
            layout,
            mtime_ns,
            ctime_ns,
            inode: meta.inode,
            state: Mutex::new(State {
                hashes: Hashes::new(layout),
                begun: HashMap::new(),
                fresh: Vec::new(),
            }),
            cache,
            id,
            drop_behind: scanned.size > memory() / 8,
        })
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    pub fn mtime_ns(&self) -> i64 {
        self.mtime_ns
    }

    pub fn ctime_ns(&self) -> i64 {
        self.ctime_ns
    }

    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The content's first bytes; `None` where it is shorter, or cannot be read.
    pub fn head(&self) -> Option<[u8; signature::HEAD]> {
        let mut head = [0; signature::HEAD];
        self.read_exact(0, &mut head).ok().map(|()| head)
    }

    /// Takes over values that an earlier run journalled; what is read now must match them.
    pub fn preload(&self, values: impl IntoIterator<Item = (u64, BlockHash)>) {
        let mut state = self.lock();
        for (index, value) in values {
            if index < self.layout.count() && !state.hashes.set(index, value) {
                tracing::debug!(index, "two journalled values for one block; the first is kept");
            }
        }
    }

    /// The value of a block, if known.
    pub fn value(&self, index: u64) -> Option<BlockHash> {
        self.lock().hashes.get(index).copied()
    }

    /// Values found since the last call, for the journal.
    pub fn take_fresh(&self) -> Vec<(u64, BlockHash)> {
        let mut state = self.lock();
        let fresh = std::mem::take(&mut state.fresh);
        fresh.into_iter().filter_map(|i| state.hashes.get(i).map(|v| (i, *v))).collect()
    }

    /// Reads these blocks again and compares them. `tick` is called after each. Errors: `SourceChanged`.
    pub fn recheck(
        &self,
        blocks: impl IntoIterator<Item = u64>,
        tick: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let mut buf = Vec::new();
        for index in blocks {
            self.read_block(index, &mut buf)?;
            self.record(index, self.layout.hash_block(index, &buf))?;
            tick()?;
        }
        Ok(())
    }

    /// Reads the whole file once more, in order, each block compared with what was read before. Errors: `SourceChanged`;
    /// those of `take`.
    pub fn each_block(&self, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buf = Vec::new();
        for index in 0..self.layout.count() {
            self.read_block(index, &mut buf)?;
            self.record(index, self.layout.hash_block(index, &buf))?;
            take(&buf)?;
        }
        Ok(())
    }

    /// Hashes what no plugin read, compares what was begun, makes sure that the file is still the one opened, and
    /// gives its BLAKE3. Errors: `SourceChanged`.
    pub fn complete(&self, tick: &dyn Fn() -> Result<()>) -> Result<[u8; 32]> {
        let begun: Vec<u64> = self.lock().begun.keys().copied().collect();
        for index in begun {
            self.load(index)?;
            tick()?;
        }
        let missing: Vec<u64> = self.lock().hashes.missing().collect();
        self.recheck(missing, tick)?;
        let meta =
            self.file.attributes().map_err(|e| Error::io("cannot read the source file's attributes", &e))?;
        if meta.size != self.layout.size || meta.mtime_ns != self.mtime_ns {
            return Err(changed(&self.path, "its size or modification time moved while it was read"));
        }
        if meta.ctime_ns != self.ctime_ns {
            // New permissions or a new link, most likely; but a rewrite that put the time back looks the same.
            self.recheck(0..self.layout.count(), tick)?;
        }
        self.cache.forget(self.id);
        let root = self.lock().hashes.root();
        root.ok_or_else(|| Error::new(ErrorKind::Other, "a block of the source file was not hashed"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn record(&self, index: u64, value: BlockHash) -> Result<()> {
        let mut state = self.lock();
        let new = state.hashes.get(index).is_none();
        if !state.hashes.set(index, value) {
            return Err(changed(&self.path, "a part of it does not hold what was read before"));
        }
        if new {
            state.fresh.push(index);
        }
        drop(state);
        if self.drop_behind {
            let range = self.layout.range(index);
            self.file.advise(range.offset, range.length, Advice::DontNeed);
        }
        Ok(())
    }

    fn read_exact(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => return Err(changed(&self.path, "it is shorter than it was")),
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    return Err(Error::io(
                        format!("cannot read '{}' in the source", self.path.display()),
                        &e,
                    ));
                }
            }
        }
        Ok(())
    }

    fn read_block(&self, index: u64, buf: &mut Vec<u8>) -> Result<()> {
        let range = self.layout.range(index);
        buf.resize(range.length as usize, 0);
        self.read_exact(range.offset, buf)
    }

    /// A whole block, from the cache or read, hashed and compared with everything handed out of it before.
    fn load(&self, index: u64) -> Result<Arc<Vec<u8>>> {
        let cached = self.cache.get(self.id, index);
        let bytes = match cached {
            Some(bytes) => bytes,
            None => {
                let mut bytes = Vec::new();
                self.read_block(index, &mut bytes)?;
                self.record(index, self.layout.hash_block(index, &bytes))?;
                let bytes = Arc::new(bytes);
                self.cache.put(self.id, index, bytes.clone());
                bytes
            }
        };
        let begun = {
            let mut state = self.lock();
            match state.begun.remove(&index) {
                // Its thread compares when it finishes the block, or `complete` does.
                Some(Begun::Busy) => {
                    state.begun.insert(index, Begun::Busy);
                    None
                }
                other => other,
            }
        };
        if let Some(Begun::At { hasher, next }) = begun {
            let first = (next - self.layout.range(index).offset) as usize;
            if self.layout.hash_block(index, &bytes[..first]) != self.layout.value(&hasher) {
                return Err(changed(&self.path, "a part of it does not hold what was read before"));
            }
        }
        Ok(bytes)
    }

    /// Hands out a part of one block.
    fn read_segment(&self, index: u64, offset: u64, buf: &mut [u8]) -> Result<()> {
        let range = self.layout.range(index);
        let whole = buf.len() as u64 == range.length;
        let hasher = {
            let mut state = self.lock();
            match state.begun.get(&index) {
                Some(Begun::At { next, .. }) if *next == offset => {
                    match state.begun.insert(index, Begun::Busy) {
                        Some(Begun::At { hasher, .. }) => Some(hasher),
                        _ => None,
                    }
                }
                None if whole => Some(Box::new(self.layout.hasher(index))),
                None if offset == range.offset
                    && state.hashes.get(index).is_none()
                    && state.begun.len() < MOST_OPEN =>
                {
                    state.begun.insert(index, Begun::Busy);
                    Some(Box::new(self.layout.hasher(index)))
                }
                _ => None,
            }
        };
        let Some(mut hasher) = hasher else {
            let bytes = self.load(index)?;
            let from = (offset - range.offset) as usize;
            buf.copy_from_slice(&bytes[from..from + buf.len()]);
            return Ok(());
        };
        let read = self.read_exact(offset, buf);
        if let Err(error) = read {
            // Nothing of this segment was handed out: the block is as it was.
            let mut state = self.lock();
            match offset > range.offset {
                true => drop(state.begun.insert(index, Begun::At { hasher, next: offset })),
                false => drop(state.begun.remove(&index)),
            }
            return Err(error);
        }
        hasher.update(buf);
        let next = offset + buf.len() as u64;
        if next < range.end() {
            self.lock().begun.insert(index, Begun::At { hasher, next });
            return Ok(());
        }
        let value = self.layout.value(&hasher);
        if !whole {
            self.lock().begun.remove(&index);
        }
        self.record(index, value)
    }
}

impl Drop for SourceReader {
    fn drop(&mut self) {
        self.cache.forget(self.id);
    }
}

impl Source for SourceReader {
    fn size(&self) -> u64 {
        self.layout.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let Some(left) = self.layout.size.checked_sub(offset) else { return Ok(0) };
        let wanted = (buf.len() as u64).min(left) as usize;
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let index = self.layout.index(at);
            let in_block = (self.layout.range(index).end() - at).min((wanted - done) as u64) as usize;
            self.read_segment(index, at, &mut buf[done..done + in_block])?;
            done += in_block;
        }
        Ok(wanted)
    }
}

fn changed(path: &TargetPath, why: &str) -> Error {
    Error::new(
        ErrorKind::SourceChanged,
        format!("'{}' changed in the source: {why}; it is left for the next run", path.display()),
    )
}

/// Bytes of memory of this machine.
fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram as u64 * u64::from(info.mem_unit)
}

#[cfg(test)]
mod tests;
