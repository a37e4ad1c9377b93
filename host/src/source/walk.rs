//! One pass over the source's tree: every regular file with its facts, and what was passed over and why.
//!
//! Directories are read with `getdents` into a large buffer and each file costs one `stat` by the directory's
//! descriptor; over a network share every call counts. Symbolic links are never followed.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use offsite_plugin_api::TargetPath;
use rustix::fs::{AtFlags, FileType, OFlags, RawDir, Stat, statat};
use rustix::io::Errno;

use super::beneath::open_beneath;
use super::ignore::Ignore;
use super::mounts::{self, Table};
use super::{Cause, LeftAlone, LeftBy, Unsettled};

/// One regular file as `stat` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub size: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub device: u64,
    pub inode: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// Sorted by path.
    pub files: Vec<(TargetPath, Facts)>,
    /// Regular files that could not even be asked for their facts.
    pub doubtful: Vec<Unsettled>,
    pub left_alone: Vec<LeftAlone>,
    pub unreadable: Vec<(TargetPath, String)>,
    /// The root's device.
    pub device: u64,
    /// What is mounted where, by path: the root first.
    pub mounts: Vec<Mounted>,
}

/// A place of the source where another file system begins than above it; the root is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    pub path: TargetPath,
    /// By what lasts: see `mounts`.
    pub identity: Arc<str>,
    /// Another one after every mount; empty where the kernel does not tell.
    pub occasion: String,
}

impl Walk {
    /// The mount that a path lies on, if any is known.
    pub fn covering(&self, path: &TargetPath) -> Option<&Mounted> {
        match self.mounts.as_slice() {
            [] => None,
            [only] => Some(only),
            all => all.iter().rev().find(|mount| path.starts_with(&mount.path)),
        }
    }

    /// Whether nothing is known of a path that was not found: it lies below a directory that could not be read, or was
    /// passed over.
    pub fn unknown(&self, path: &TargetPath) -> bool {
        if self.doubtful.iter().any(|u| u.path == *path) {
            return true;
        }
        let mut at = Some(path.clone());
        while let Some(here) = at {
            if self.unreadable.binary_search_by(|(directory, _)| directory.cmp(&here)).is_ok()
                || self.left_alone.binary_search_by(|u| u.path.cmp(&here)).is_ok()
            {
                return true;
            }
            at = here.parent();
        }
        false
    }
}

pub(super) fn facts(stat: &Stat) -> Facts {
    let ns =
        |seconds: i64, nanoseconds: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
    Facts {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec as i64),
        ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec as i64),
        device: stat.st_dev,
        inode: stat.st_ino,
    }
}

/// What file systems and storage boxes keep for themselves: copies of the same images, deleted ones, indexes.
const HOUSEKEEPING: [&[u8]; 9] = [
    b".snapshot",
    b".snapshots",
    b".zfs",
    b".Trash",
    b".Trashes",
    b"@eaDir",
    b"#recycle",
    b"$RECYCLE.BIN",
    b"System Volume Information",
];

/// What a walk goes by.
struct Guide<'a> {
    root: BorrowedFd<'a>,
    ignore: &'a Ignore,
    table: Table,
    /// Directories to go to, each with the id of the mount it was seen in.
    directories: Vec<(TargetPath, Option<u64>)>,
}

/// Walks everything beneath `root` but what is to be ignored. Errors: only what makes the root itself unreadable.
pub(super) fn walk(root: BorrowedFd<'_>, ignore: &Ignore) -> Result<Walk, Errno> {
    let mut walk = Walk::default();
    let mut buffer = vec![MaybeUninit::<u8>::uninit(); 256 << 10];
    let directories = vec![(TargetPath::root(), None)];
    let mut guide = Guide { root, ignore, table: Table::read(), directories };
    while let Some((directory, above)) = guide.directories.pop() {
        let read = one(&mut guide, &directory, above, &mut buffer, &mut walk);
        let Err(errno) = read else { continue };
        if directory.is_root() {
            return Err(errno);
        }
        // What it did list may be copied; what it did not must not look deleted.
        match errno {
            // It went between its parent's listing and now.
            Errno::NOENT => {}
            Errno::ACCESS if directory.as_bytes() == b"lost+found" => {
                walk.left_alone.push(LeftAlone {
                    path: directory,
                    by: LeftBy::Housekeeping,
                    reason: "the file system's own directory".to_owned(),
                });
            }
            errno => walk.unreadable.push((directory, errno.to_string())),
        }
    }
    walk.files.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    walk.left_alone.sort_by(|a, b| a.path.cmp(&b.path));
    walk.unreadable.sort();
    walk.mounts.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(walk)
}

/// Notes what is mounted on this directory. `id`: its mount's.
fn mounted(guide: &mut Guide<'_>, directory: &TargetPath, descriptor: &OwnedFd, id: Option<u64>) -> Mounted {
    let find = |table: &Table| table.identity(id?, descriptor.as_fd());
    let identity = find(&guide.table).or_else(|| {
        // Mounted since the table was read.
        guide.table = Table::read();
        find(&guide.table)
    });
    Mounted {
        path: directory.clone(),
        identity: identity.unwrap_or_else(|| mounts::UNKNOWN.into()),
        occasion: mounts::occasion(descriptor),
    }
}

fn one(
    guide: &mut Guide<'_>,
    directory: &TargetPath,
    above: Option<u64>,
    buffer: &mut [MaybeUninit<u8>],
    walk: &mut Walk,
) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let descriptor = open_beneath(guide.root, directory, flags)?;
    let (mount, device) = mounts::mount_of(&descriptor)?;
    if directory.is_root() {
        walk.device = device;
    }
    if directory.is_root() || mount != above {
        let mounted = mounted(guide, directory, &descriptor, mount);
        walk.mounts.push(mounted);
    }
    let mut entries = RawDir::new(descriptor.as_fd(), buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        let bytes = name.to_bytes();
        if matches!(bytes, b"." | b"..") {
            continue;
        }
        let alone = |walk: &mut Walk, path: TargetPath, by: LeftBy, reason: &str| {
            walk.left_alone.push(LeftAlone { path, by, reason: reason.to_owned() });
        };
        let Ok(path) = directory.join(bytes) else {
            let shown = directory.join(bytes.escape_ascii().to_string()).unwrap_or_default();
            if !guide.ignore.names(&shown) {
                alone(walk, shown, LeftBy::Name, "its name holds a line break");
            }
            continue;
        };
        if guide.ignore.names(&path) {
            continue;
        }
        if HOUSEKEEPING.contains(&bytes) || bytes.starts_with(b".Trash-") {
            let reason = "it is the file system's or the storage's own (trash, snapshots)";
            alone(walk, path, LeftBy::Housekeeping, reason);
            continue;
        }
        let mut kind = entry.file_type();
        let mut stat = None;
        if matches!(kind, FileType::RegularFile | FileType::Unknown) {
            match statat(&descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) => {
                    kind = FileType::from_raw_mode(found.st_mode);
                    stat = Some(found);
                }
                // Deleted or renamed since it was listed.
                Err(Errno::NOENT) => continue,
                Err(errno) => {
                    let reason = format!("it cannot be looked at: {errno}");
                    walk.doubtful.push(Unsettled { path, reason, cause: Cause::Unreadable });
                    continue;
                }
            }
        }
        match (kind, stat) {
            (FileType::RegularFile, Some(stat)) => walk.files.push((path, facts(&stat))),
            (FileType::Directory, _) => guide.directories.push((path, mount)),
            (FileType::Symlink, _) => alone(walk, path, LeftBy::Link, "it is a symbolic link"),
            _ => alone(walk, path, LeftBy::Special, "it is no regular file (a device, a socket or a pipe)"),
        }
    }
    Ok(())
}
