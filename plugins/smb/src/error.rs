//! The library's and the server's errors to the contract's: one table of NT status codes, one of everything else.
//!
//! What the server says besides its status is never shown: nothing but numbers of it reach a user.

use offsite_plugin_api::{Error, ErrorKind, TargetPath};
use smb2::types::Command;
use smb2::types::status::NtStatus;

/// The error met when trying to `act` ("write", "look at", …) on `path`.
pub fn failed(act: &str, path: &TargetPath, error: &smb2::Error) -> Error {
    let (kind, hint) = meaning(error);
    let error = Error::new(kind, format!("cannot {act} {}", shown(path))).with_source(said(error));
    if hint.is_empty() { error } else { error.with_context("hint", hint) }
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

/// The library's words without a server's text.
pub fn said(error: &smb2::Error) -> String {
    match (status(error), error) {
        (Some(status), _) => NtStatus(status).to_string(),
        (None, smb2::Error::ConnectFailed { attempts, .. }) => attempts
            .iter()
            .find_map(|attempt| attempt.error_kind)
            .map_or_else(|| "no answer".to_owned(), |kind| kind.to_string()),
        (None, _) => error.to_string().chars().filter(|c| !c.is_control()).take(300).collect(),
    }
}

/// The server's NT status, where it gave one.
pub fn status(error: &smb2::Error) -> Option<u32> {
    error.status().map(|status| status.0)
}

/// What a server would say with `status`.
pub fn of_status(status: u32) -> smb2::Error {
    smb2::Error::Protocol { status: NtStatus(status), command: Command::Create }
}

/// Whether the connection, the session or the share behind it is gone: the next call connects anew.
pub fn lost(error: &smb2::Error) -> bool {
    match status(error) {
        Some(status) => matches!(
            status,
            NETWORK_NAME_DELETED
                | USER_SESSION_DELETED
                | NETWORK_SESSION_EXPIRED
                | CONNECTION_DISCONNECTED
                | CONNECTION_RESET
                | BAD_TID
                | BAD_UID
        ),
        // A client that no longer understands its server, or waits in vain, is of no more use.
        None => true,
    }
}

const NETWORK_NAME_DELETED: u32 = 0xC000_00C9;
const USER_SESSION_DELETED: u32 = 0xC000_0203;
const NETWORK_SESSION_EXPIRED: u32 = 0xC000_035C;
const CONNECTION_DISCONNECTED: u32 = 0xC000_020C;
const CONNECTION_RESET: u32 = 0xC000_020D;
const BAD_TID: u32 = 0x0005_0002;
const BAD_UID: u32 = 0x005B_0002;
pub const OBJECT_NAME_COLLISION: u32 = 0xC000_0035;
pub const OBJECT_NAME_NOT_FOUND: u32 = 0xC000_0034;
pub const OBJECT_PATH_NOT_FOUND: u32 = 0xC000_003A;
pub const NOT_A_DIRECTORY: u32 = 0xC000_0103;
pub const IS_A_DIRECTORY: u32 = 0xC000_00BA;
pub const ACCESS_DENIED: u32 = 0xC000_0022;

const PASSWORD: &str = "check user, domain and password";
const ROOM: &str = "free space on the server or choose another share";

fn meaning(error: &smb2::Error) -> (ErrorKind, &'static str) {
    match status(error) {
        Some(status) => meaning_of(status),
        None => of_library(error),
    }
}

/// MS-ERREF 2.3.1.
fn meaning_of(status: u32) -> (ErrorKind, &'static str) {
    match status {
        // No such file, name, path, and a file where a directory should be.
        0xC000_000F | OBJECT_NAME_NOT_FOUND | OBJECT_PATH_NOT_FOUND | NOT_A_DIRECTORY => {
            (ErrorKind::NotFound, "")
        }
        OBJECT_NAME_COLLISION | IS_A_DIRECTORY => (ErrorKind::Exists, ""),
        ACCESS_DENIED => (ErrorKind::Denied, "check the permissions of the account on share and folder"),
        0xC000_0121 => (ErrorKind::Denied, "the file is marked read-only on the server"),
        // Logon failure, no such user, wrong password, restriction, disabled, expired, locked out, must change.
        0xC000_006D | 0xC000_0064 | 0xC000_006A | 0xC000_006E | 0xC000_0070 | 0xC000_015B => {
            (ErrorKind::Unauthenticated, PASSWORD)
        }
        0xC000_0072 | 0xC000_0193 => (ErrorKind::Unauthenticated, "the account is disabled or expired"),
        0xC000_0071 | 0xC000_0224 => (ErrorKind::Unauthenticated, "the password has expired"),
        0xC000_0234 => {
            (ErrorKind::Unauthenticated, "the account is locked; unlock it, and check the password")
        }
        0xC000_00CC => (ErrorKind::NotFound, "the server has no share of that name"),
        0xC000_00CB => (ErrorKind::InvalidConfig, "the name is not that of a share for files"),
        0xC000_0257 => {
            (ErrorKind::Unsupported, "the share is part of a DFS tree: name the server that holds it")
        }
        0xC000_007F => (ErrorKind::NoSpace, ROOM),
        0xC000_0044 => (ErrorKind::Quota, "the quota of the account is used up"),
        0xC000_00A2 => (ErrorKind::ReadOnly, "the share's disk is write-protected"),
        0xC000_0904 => (ErrorKind::TooLarge, "the server's file system cannot hold so large a file"),
        0xC000_0033 | 0xC000_0106 | 0xC000_003B | 0xC000_0039 => {
            (ErrorKind::NameRefused, "the server refuses the name")
        }
        0xC000_0101 => (ErrorKind::PreconditionFailed, "the directory is not empty"),
        0xC000_0043 | 0xC000_0056 => (ErrorKind::Busy, "the file is open on the server"),
        0xC000_0054 | 0xC000_0055 => (ErrorKind::Locked, "the file is locked on the server"),
        0xC000_00D0 | 0xC000_009A | 0xC000_0117 | 0xC000_011F | 0xC000_205A => {
            (ErrorKind::Busy, "the server has too much to do or too many connections")
        }
        0xC000_00B5 | 0xC000_0102 => (ErrorKind::TimedOut, "the server's disk does not answer"),
        0xC000_0185 | 0xC000_009C | 0xC000_003E => (ErrorKind::Offline, "the server reports a disk error"),
        NETWORK_NAME_DELETED
        | USER_SESSION_DELETED
        | NETWORK_SESSION_EXPIRED
        | CONNECTION_DISCONNECTED
        | CONNECTION_RESET
        | BAD_TID
        | BAD_UID => (ErrorKind::Interrupted, ""),
        0xC000_0120 => (ErrorKind::Interrupted, ""),
        0xC000_0002 | 0xC000_0003 | 0xC000_0010 | 0xC000_00BB => {
            (ErrorKind::Unsupported, "the server cannot do that")
        }
        0xC000_0011 => (ErrorKind::Corrupt, "the file is shorter than it should be"),
        _ => (ErrorKind::Other, ""),
    }
}

fn of_library(error: &smb2::Error) -> (ErrorKind, &'static str) {
    use smb2::Error as E;
    match error {
        E::Io(io) | E::SendFailed { source: io, .. } => of_socket(io.kind()),
        E::ConnectFailed { attempts, .. } => match attempts.iter().find_map(|attempt| attempt.error_kind) {
            Some(kind) => of_socket(kind),
            None => {
                (ErrorKind::TimedOut, "nothing answers there: check the address, and what filters the way")
            }
        },
        E::Timeout | E::CreditStarvation { .. } | E::SendTimeout { .. } | E::ServerUnresponsive { .. } => {
            (ErrorKind::TimedOut, "")
        }
        E::Auth { .. } => (ErrorKind::Unauthenticated, PASSWORD),
        E::SignatureInvalid { .. } => {
            (ErrorKind::UntrustedPeer, "a signature is wrong: somebody may be changing what is sent")
        }
        E::GuestSessionRefused { .. } => (
            ErrorKind::Unauthenticated,
            "the server knows no such user and offers a guest's session; check user and domain",
        ),
        E::DfsReferralRequired { .. } | E::ShareRedirected { .. } => {
            (ErrorKind::Unsupported, "the share is served by another server: name that one")
        }
        E::InvalidData { .. } => (ErrorKind::Interrupted, "the server sent something that cannot be read"),
        _ => (ErrorKind::Interrupted, ""),
    }
}

fn of_socket(kind: std::io::ErrorKind) -> (ErrorKind, &'static str) {
    match kind {
        std::io::ErrorKind::ConnectionRefused => {
            (ErrorKind::Unreachable, "nothing listens there: check server and port, and that it shares files")
        }
        std::io::ErrorKind::TimedOut => (ErrorKind::TimedOut, ""),
        std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable => {
            (ErrorKind::Unreachable, "there is no way to the server")
        }
        std::io::ErrorKind::PermissionDenied => (ErrorKind::Denied, ""),
        _ => (ErrorKind::Interrupted, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use offsite_plugin_api::Retry;

    #[test]
    fn the_kind_decides_what_the_host_does() {
        let path = TargetPath::new(&b"a/b"[..]).unwrap();
        let kind = |status| {
            let error = failed("write", &path, &of_status(status));
            (error.kind().clone(), error.retry())
        };
        assert_eq!(kind(0xC000_007F), (ErrorKind::NoSpace, Retry::Never));
        assert_eq!(kind(0xC000_006D), (ErrorKind::Unauthenticated, Retry::Never));
        assert_eq!(kind(0xC000_00CC), (ErrorKind::NotFound, Retry::Never));
        assert_eq!(kind(0xC000_0043), (ErrorKind::Busy, Retry::Now));
        assert_eq!(kind(NETWORK_NAME_DELETED), (ErrorKind::Interrupted, Retry::Now));
        let gone = failed("write", &path, &smb2::Error::Disconnected);
        assert_eq!((gone.kind(), gone.retry()), (&ErrorKind::Interrupted, Retry::Now));
        assert!(lost(&smb2::Error::Disconnected) && !lost(&of_status(OBJECT_NAME_NOT_FOUND)));
    }
}
