//! What is wrong with a source that cannot be scanned, and what to do about it. Any of these stops the job for that
//! source before a target is touched.

use std::path::Path;

use rustix::io::Errno;

use crate::error::{Error, Kind};

/// The root cannot be opened or read.
pub(super) fn root(root: &Path, errno: Errno) -> Error {
    let (what, hint) = match errno {
        Errno::NOENT => ("the source does not exist", "check the path, and that its file system is mounted"),
        Errno::NOTDIR => ("the source is no directory", "give the folder that the backup product writes to"),
        Errno::ACCESS | Errno::PERM => ("the source may not be read", "run as a user who may read it"),
        e if is_gone(e) => (
            "the source's file system has gone away",
            "mount it again; targets were not touched, and the next run goes on",
        ),
        _ => ("the source cannot be read", "check its file system; targets were not touched"),
    };
    error(what, root).because(errno).hint(hint)
}

/// Errors of a file system whose server or device is not there any more.
pub(super) fn is_gone(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::STALE
            | Errno::NOTCONN
            | Errno::NODEV
            | Errno::NXIO
            | Errno::IO
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::TIMEDOUT
            | Errno::CONNABORTED
            | Errno::SHUTDOWN
    )
}

pub(super) fn empty(root: &Path) -> Error {
    error("the source holds no file", root).hint(
        "an unmounted share looks like this: mount it; if it is a new folder, let the first backup finish",
    )
}

pub(super) fn unreadable(root: &Path, count: usize, first: &str) -> Error {
    error("no file of the source can be read", root)
        .because(match count {
            1 => format!("a directory cannot be read: {first}"),
            _ => format!(
                "{} cannot be read, the first because of: {first}",
                crate::words::count(count as u64, "directory")
            ),
        })
        .hint("run as a user who may read it")
}

pub(super) fn replaced(root: &Path) -> Error {
    error("the source was replaced during the scan", root)
        .hint("something was mounted or unmounted there; run again when it is back")
}

pub(super) fn elsewhere(root: &Path) -> Error {
    error("the source is another file system than at the last scan, and holds none of the files seen then", root).hint(
        "mount what was there; if it was moved on purpose, 'offsite source accept' takes the one that is there now",
    )
}

fn error(what: &str, root: &Path) -> Error {
    Error::new(Kind::Source, what).on(root.display().to_string())
}
