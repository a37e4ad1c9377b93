//! Opening files of the source: never through a symbolic link, never outside the root, never anything but what was
//! asked for. The one place where the source is opened.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use offsite_plugin_api::TargetPath;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2};
use rustix::io::Errno;

use super::SourceFile;
use crate::error::{Error, Kind, Result};

/// Opens the root's descriptor. The root itself may be a symbolic link: the user named it.
pub fn open_root(root: &std::path::Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(root, flags, Mode::empty()).map_err(|e| super::trouble::root(root, e))
}

/// Opens a regular file of the source for reading, beneath `root`, following no symbolic link anywhere on the way.
/// Errors: [`Kind::Source`].
pub fn open_file(root: impl AsFd, path: &TargetPath) -> Result<File> {
    open_regular(root, path)
        .map_err(|e| Error::new(Kind::Source, "cannot open the source file").on(path.display()).because(e))
}

/// The same. Errors: the system's; `InvalidInput` for what is no regular file any more.
pub(super) fn open_regular(root: impl AsFd, path: &TargetPath) -> std::io::Result<File> {
    // NONBLOCK: a FIFO that took the file's place must not hang the open.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open_beneath(root.as_fd(), path, flags)?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        let why = "it is no regular file any more";
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, why));
    }
    Ok(File::from(file))
}

/// Opens whatever is at `path` beneath `root` without following any link.
pub(super) fn open_beneath(
    root: impl AsFd,
    path: &TargetPath,
    flags: OFlags,
) -> std::result::Result<OwnedFd, Errno> {
    let root = root.as_fd();
    let whole: &[u8] = if path.is_root() { b"." } else { path.as_bytes() };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, whole, flags, Mode::empty(), resolve) {
        // Kernels before 5.6, and containers that filter what they do not know.
        Err(Errno::NOSYS | Errno::PERM) => step_by_step(root, path, flags),
        // A rename somewhere made the kernel unsure: ask again.
        Err(Errno::AGAIN) => openat2(root, whole, flags, Mode::empty(), resolve),
        opened => opened,
    }
}

fn step_by_step(root: impl AsFd, path: &TargetPath, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = openat(root, ".", directory, Mode::empty())?;
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        if components.peek().is_none() {
            return openat(&at, component, flags | OFlags::NOFOLLOW, Mode::empty());
        }
        at = openat(&at, component, directory, Mode::empty())?;
    }
    openat(&at, ".", flags, Mode::empty())
}

/// Whether a file is still the one that was scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sameness {
    Same,
    /// Size and modification time agree, inode or ctime do not: a remount, or a rewrite that kept the time. What was
    /// read before must be hashed again.
    Doubtful,
    Changed,
}

/// Compares a scanned file with what `fstat` says of it now.
pub fn same_file(file: &SourceFile, stat: &Stat) -> Sameness {
    let now = super::walk::facts(stat);
    if (now.size, now.mtime_ns) != (file.size, file.mtime_ns) {
        return Sameness::Changed;
    }
    if (file.ctime_ns != 0 && now.ctime_ns != file.ctime_ns) || now.inode != file.inode {
        return Sameness::Doubtful;
    }
    Sameness::Same
}
