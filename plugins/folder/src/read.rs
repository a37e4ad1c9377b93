//! Reading back: staged bytes from the disk itself, published files the ordinary way.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;

use offsite_plugin_api::{Call, Error, ErrorKind, Range, Result, Sink, TargetPath, Token};
use rustix::fs::{Advice, FileType, OFlags};
use rustix::io::Errno;

use super::client::{Folder, changed, version};
use super::error::{failed, stale};
use super::write::StagingToken;

const BUFFER: usize = 1 << 20;
/// What O_DIRECT wants offsets, lengths and memory aligned to; 4 KiB suits every disk there is.
pub(super) const ALIGNMENT: usize = 4096;

/// Memory for direct reads and writes, without unsafe code: a longer buffer, used from its first aligned byte.
pub(super) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    pub(super) fn new(length: usize) -> Self {
        let memory = vec![0; length + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { memory, start, length }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

/// Reads staged bytes from the storage, not from the page cache that still holds what we wrote: O_DIRECT, or,
/// where the file system has none, after the cached pages were written out and dropped.
pub fn staged(folder: &Folder, call: &Call, token: &Token, range: Range, sink: &dyn Sink) -> Result<()> {
    let token = StagingToken::parse(token)?;
    let root = folder.root(false)?;
    let open = |flags| match root.open(&token.path, flags) {
        Err(Errno::NOENT) => Err(stale(&token.path, "is not staged any more")),
        Err(Errno::INVAL) => Ok(None),
        Err(errno) => Err(failed("read back", &token.path, errno)),
        Ok(fd) => Ok(Some(fd)),
    };
    let same = |fd: &OwnedFd| match rustix::fs::fstat(fd) {
        Ok(stat) if token.is(&root, &stat) => Ok(()),
        Ok(_) => Err(stale(&token.path, "was replaced by another staged file")),
        Err(errno) => Err(failed("look at", &token.path, errno)),
    };
    if let Some(fd) = open(OFlags::RDONLY | OFlags::DIRECT)? {
        same(&fd)?;
        match copy(call, &fd, &token.path, range, true, sink) {
            Err(error) if *error.kind() == ErrorKind::Unsupported => {}
            other => return other,
        }
    }
    let fd = open(OFlags::RDONLY)?.ok_or_else(|| failed("read back", &token.path, Errno::INVAL))?;
    same(&fd)?;
    rustix::fs::fdatasync(&fd).map_err(|e| failed("write out", &token.path, e))?;
    // The whole file: of a range the kernel would keep the pages that are only partly in it.
    rustix::fs::fadvise(&fd, 0, None, Advice::DontNeed)
        .map_err(|e| failed("drop the cached pages of", &token.path, e))?;
    copy(call, &fd, &token.path, range, false, sink)
}

pub fn get(
    folder: &Folder,
    call: &Call,
    path: &TargetPath,
    range: Option<Range>,
    if_version: Option<&str>,
    sink: &dyn Sink,
) -> Result<()> {
    let root = folder.root(false)?;
    let fd = root.open(path, OFlags::RDONLY).map_err(|e| failed("read", path, e))?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| failed("look at", path, e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::new(ErrorKind::Unsupported, format!("'{}' is not a file", path.display())));
    }
    if if_version.is_some_and(|wanted| wanted != version(&root.traits, &stat)) {
        return Err(changed(path, false));
    }
    let range = range.unwrap_or(Range { offset: 0, length: stat.st_size as u64 });
    if range.length > BUFFER as u64 {
        let _ = rustix::fs::fadvise(&fd, range.offset, NonZeroU64::new(range.length), Advice::Sequential);
    }
    copy(call, &fd, path, range, false, sink)
}

/// Gives the range to the sink; `direct` reads whole aligned blocks and gives what was asked for of them.
/// `Unsupported` when the very first direct read is refused.
fn copy(
    call: &Call,
    fd: &OwnedFd,
    path: &TargetPath,
    range: Range,
    direct: bool,
    sink: &dyn Sink,
) -> Result<()> {
    let mut memory = Aligned::new(BUFFER);
    let buffer = memory.bytes();
    let end = range.end();
    let mut at = range.offset;
    while at < end {
        call.proceed()?;
        let from = if direct { at - at % ALIGNMENT as u64 } else { at };
        let wanted = (end - from).min(BUFFER as u64);
        let length = if direct { wanted.next_multiple_of(ALIGNMENT as u64) } else { wanted } as usize;
        let read = match rustix::io::pread(fd, &mut buffer[..length], from) {
            Ok(read) => read as u64,
            Err(Errno::INTR) => continue,
            Err(Errno::INVAL) if direct && at == range.offset => {
                return Err(Error::unsupported("direct reads of this file system"));
            }
            Err(errno) => return Err(failed("read", path, errno)),
        };
        let got = (from + read).min(end);
        if got <= at {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("'{}' ends at byte {} and should reach {end}", path.display(), from + read),
            ));
        }
        sink.write(&buffer[(at - from) as usize..(got - from) as usize])?;
        at = got;
    }
    Ok(())
}
