//! Operating-system errors to the contract's errors: the kind decides whether the host tries again, so a vanished
//! mount, a full disk and a refused name must not look alike. Every message names the act, the path relative to
//! the target's root, and, where a user can do something, what.

use offsite_plugin_api::{Error, ErrorKind, TargetPath};
use rustix::io::Errno;

/// The error for `errno` met when trying to `act` ("write", "open the folder", …) on `path`.
pub fn failed(act: &str, path: &TargetPath, errno: Errno) -> Error {
    let (kind, hint) = meaning(errno);
    let error = Error::new(kind, format!("cannot {act} {}", shown(path)));
    with_hint(error, hint).with_source(std::io::Error::from(errno).to_string())
}

/// `path` as users read it.
pub fn shown(path: &TargetPath) -> String {
    if path.is_root() { "the target's folder".to_owned() } else { format!("'{}'", path.display()) }
}

/// Nothing usable is staged under the token.
pub fn stale(path: &TargetPath, why: &str) -> Error {
    Error::new(ErrorKind::StaleToken, format!("{} {why}", shown(path)))
        .with_context("hint", "the file is sent again from the start")
}

pub fn no_space(path: &TargetPath, needed: u64, free: u64) -> Error {
    Error::new(
        ErrorKind::NoSpace,
        format!("no room for {}: {needed} more bytes are needed, {free} are free", shown(path)),
    )
    .with_context("hint", "free space on the target or choose a larger one")
}

fn with_hint(error: Error, hint: &str) -> Error {
    if hint.is_empty() { error } else { error.with_context("hint", hint) }
}

fn meaning(errno: Errno) -> (ErrorKind, &'static str) {
    const GONE: &str =
        "the share or disk behind the folder does not answer; check that it is connected and mounted";
    match errno {
        Errno::NOENT | Errno::NOTDIR => (ErrorKind::NotFound, ""),
        Errno::EXIST | Errno::ISDIR => (ErrorKind::Exists, ""),
        Errno::ACCESS | Errno::PERM => {
            (ErrorKind::Denied, "check the owner and permissions of the folder and how it is mounted")
        }
        Errno::LOOP | Errno::XDEV => {
            (ErrorKind::Denied, "a symbolic link is in the way; links below a target are never followed")
        }
        Errno::NOSPC => (ErrorKind::NoSpace, "free space on the target or choose a larger one"),
        Errno::DQUOT => (ErrorKind::Quota, "the quota on the target is used up"),
        Errno::ROFS => {
            (ErrorKind::ReadOnly, "the file system is mounted read-only; a disk error can cause that")
        }
        Errno::FBIG => (ErrorKind::TooLarge, "this file system cannot hold so large a file"),
        Errno::NAMETOOLONG | Errno::ILSEQ => {
            (ErrorKind::NameRefused, "this file system cannot store the name")
        }
        Errno::NOTEMPTY => (ErrorKind::PreconditionFailed, "the directory is not empty"),
        Errno::BUSY | Errno::TXTBSY | Errno::AGAIN => (ErrorKind::Busy, ""),
        Errno::MFILE | Errno::NFILE => (ErrorKind::Busy, "too many open files; raise the limit (ulimit -n)"),
        Errno::NOLCK | Errno::DEADLK => (ErrorKind::Locked, ""),
        Errno::TIMEDOUT => (ErrorKind::TimedOut, GONE),
        Errno::INTR => (ErrorKind::Interrupted, ""),
        Errno::STALE
        | Errno::NOTCONN
        | Errno::IO
        | Errno::NODEV
        | Errno::NXIO
        | Errno::HOSTDOWN
        | Errno::SHUTDOWN
        | Errno::NOLINK
        | Errno::REMOTEIO => (ErrorKind::Offline, GONE),
        Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::NETDOWN | Errno::CONNREFUSED => {
            (ErrorKind::Unreachable, GONE)
        }
        Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE => (ErrorKind::Interrupted, GONE),
        Errno::OPNOTSUPP | Errno::NOSYS => (ErrorKind::Unsupported, "this file system cannot do that"),
        _ => (ErrorKind::Other, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use offsite_plugin_api::Retry;

    #[test]
    fn a_vanished_mount_is_offline_and_worth_another_try() {
        for errno in [Errno::STALE, Errno::NOTCONN, Errno::IO, Errno::NODEV] {
            let error = failed("write", &TargetPath::new(&b"a/b"[..]).unwrap(), errno);
            assert_eq!((error.kind(), error.retry()), (&ErrorKind::Offline, Retry::Now), "{errno:?}");
            assert!(error.to_string().contains("'a/b'") && error.to_string().contains("mounted"), "{error}");
        }
    }

    #[test]
    fn a_full_disk_and_a_refused_name_are_final() {
        for (errno, kind) in [
            (Errno::NOSPC, ErrorKind::NoSpace),
            (Errno::DQUOT, ErrorKind::Quota),
            (Errno::NAMETOOLONG, ErrorKind::NameRefused),
            (Errno::ROFS, ErrorKind::ReadOnly),
            (Errno::ACCESS, ErrorKind::Denied),
            (Errno::LOOP, ErrorKind::Denied),
        ] {
            let error = failed("write", &TargetPath::root(), errno);
            assert_eq!((error.kind(), error.retry()), (&kind, Retry::Never));
        }
    }
}
