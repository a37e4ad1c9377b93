//! How a run gets at the source's files: from this machine's file system, or, in the model test, from a simulated one.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};

use offsite_plugin_api::{Result, TargetPath};
use rustix::fs::Advice;

/// An open source folder.
pub trait Folder: Send + Sync {
    /// Whether the folder is still what has its path. Errors: `Source`, when it vanished or was unmounted.
    fn still_there(&self) -> crate::error::Result<()>;

    /// Beneath the folder, never through a link.
    fn open_file(&self, path: &TargetPath) -> Result<Box<dyn Opened>>;
}

/// What an open file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileAttributes {
    /// A regular file, and no directory or device.
    pub regular: bool,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub inode: u64,
}

/// One open file of the source.
pub trait Opened: Send + Sync {
    fn attributes(&self) -> io::Result<FileAttributes>;

    /// As pread(2): may give fewer bytes than asked for, none at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// How the page cache is used; `length` 0: up to the end.
    fn advise(&self, offset: u64, length: u64, advice: Advice);
}

impl Opened for File {
    fn attributes(&self) -> io::Result<FileAttributes> {
        let meta = self.metadata()?;
        let (mtime_ns, ctime_ns) = times(&meta);
        let inode = meta.ino();
        Ok(FileAttributes { regular: meta.is_file(), size: meta.len(), mtime_ns, ctime_ns, inode })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buf, offset)
    }

    fn advise(&self, offset: u64, length: u64, advice: Advice) {
        let _ = rustix::fs::fadvise(self, offset, NonZeroU64::new(length), advice);
    }
}

pub(super) fn times(meta: &std::fs::Metadata) -> (i64, i64) {
    let ns = |s: i64, n: i64| s.saturating_mul(1_000_000_000).saturating_add(n);
    (ns(meta.mtime(), meta.mtime_nsec()), ns(meta.ctime(), meta.ctime_nsec()))
}
