//! What libssh2, the operating system and the server say, to the contract's kinds: the one table of this plugin.
//!
//! The kind decides whether the host tries again. SFTP version 3 has few status codes: OpenSSH answers `failure` to a
//! full disk, to a read-only file system and to a name that is taken; who meets it asks further ([`Link::why`]).
//!
//! [`Link::why`]: super::link::Link::why

use offsite_plugin_api::{Error, ErrorKind, TargetPath};

use super::wire::plain;

/// SFTP status codes (section 7; from 10 on those of later versions, which some servers send).
pub const OK: u32 = 0;
pub const EOF: u32 = 1;
pub const NO_SUCH_FILE: u32 = 2;
pub const DENIED: u32 = 3;
pub const FAILURE: u32 = 4;
pub const BAD_MESSAGE: u32 = 5;
pub const UNSUPPORTED: u32 = 8;
const ALREADY_EXISTS: u32 = 11;

/// The error for a status met when trying to `act` ("write", "open", …) on `path`.
pub fn status(act: &str, path: &TargetPath, code: u32, words: &str) -> Error {
    let (kind, hint) = meaning(code);
    let error = Error::new(kind, format!("cannot {act} {}", shown(path)));
    let words = if words.is_empty() { format!("status {code}") } else { words.to_owned() };
    with_hint(error, hint).with_source(format!("the server says: {words}"))
}

fn meaning(code: u32) -> (ErrorKind, &'static str) {
    const GONE: &str = "the server lost what it serves; check the disk or share behind it";
    match code {
        NO_SUCH_FILE | 10 | 19 => (ErrorKind::NotFound, ""),
        DENIED | 16 => (
            ErrorKind::Denied,
            "check who owns the folder on the server and whether this account may only read",
        ),
        ALREADY_EXISTS => (ErrorKind::Exists, ""),
        // OpenSSH says this of a name that is too long or that its file system cannot hold.
        BAD_MESSAGE | 20 => (ErrorKind::NameRefused, "the server's file system cannot store the name"),
        6 | 7 => (ErrorKind::Offline, GONE),
        13 => (ErrorKind::Offline, GONE),
        UNSUPPORTED => (ErrorKind::Unsupported, "this server cannot do that"),
        12 => (ErrorKind::ReadOnly, "the file system on the server is read-only"),
        14 => (ErrorKind::NoSpace, "free space on the target or choose a larger one"),
        15 => (ErrorKind::Quota, "the quota on the target is used up"),
        17 => (ErrorKind::Locked, ""),
        18 => (ErrorKind::PreconditionFailed, "the directory is not empty"),
        21 => (ErrorKind::Denied, "a symbolic link is in the way"),
        _ => (ErrorKind::Other, ""),
    }
}

/// The error for what libssh2 says of the connection, `what` being the failed act and its object.
pub fn session(what: &str, error: &ssh2::Error) -> Error {
    use libssh2_sys as c;
    const OLD: &str = "the server may offer only old algorithms (SHA-1, CBC), as old NAS systems do, which are refused here: \
                       update the server, or mount it and use a folder target";
    const REFUSED: &str = "the server takes no more connections at this time (MaxStartups, a block after failed logins), or \
                           it is no SSH server";
    let (kind, hint) = match error.code() {
        ssh2::ErrorCode::SFTP(code) => meaning(u32::try_from(code).unwrap_or(FAILURE)),
        // Told as a lost connection, as a time-out or as itself, depending on how what answers there fails to greet.
        ssh2::ErrorCode::Session(_) if error.message().contains("banner") => {
            (ErrorKind::Interrupted, REFUSED)
        }
        ssh2::ErrorCode::Session(code) => match code {
            c::LIBSSH2_ERROR_TIMEOUT | c::LIBSSH2_ERROR_SOCKET_TIMEOUT => (ErrorKind::TimedOut, ""),
            c::LIBSSH2_ERROR_BANNER_RECV | c::LIBSSH2_ERROR_BANNER_SEND => (ErrorKind::Interrupted, REFUSED),
            c::LIBSSH2_ERROR_SOCKET_SEND
            | c::LIBSSH2_ERROR_SOCKET_RECV
            | c::LIBSSH2_ERROR_SOCKET_DISCONNECT
            | c::LIBSSH2_ERROR_BAD_SOCKET
            | c::LIBSSH2_ERROR_CHANNEL_CLOSED
            | c::LIBSSH2_ERROR_CHANNEL_EOF_SENT => (ErrorKind::Interrupted, ""),
            c::LIBSSH2_ERROR_KEX_FAILURE
            | c::LIBSSH2_ERROR_KEY_EXCHANGE_FAILURE
            | c::LIBSSH2_ERROR_METHOD_NONE => (ErrorKind::Unsupported, OLD),
            c::LIBSSH2_ERROR_HOSTKEY_INIT | c::LIBSSH2_ERROR_HOSTKEY_SIGN => (
                ErrorKind::UntrustedPeer,
                "the server could not prove that it holds its host key: someone may be in between",
            ),
            c::LIBSSH2_ERROR_INVALID_MAC | c::LIBSSH2_ERROR_DECRYPT | c::LIBSSH2_ERROR_PROTO => {
                (ErrorKind::Interrupted, "the connection was disturbed")
            }
            c::LIBSSH2_ERROR_AUTHENTICATION_FAILED
            | c::LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED
            | c::LIBSSH2_ERROR_PASSWORD_EXPIRED
            | c::LIBSSH2_ERROR_KEYFILE_AUTH_FAILED => (ErrorKind::Unauthenticated, ""),
            c::LIBSSH2_ERROR_CHANNEL_FAILURE
            | c::LIBSSH2_ERROR_CHANNEL_REQUEST_DENIED
            | c::LIBSSH2_ERROR_REQUEST_DENIED => (
                ErrorKind::Denied,
                "the login works, but this account may not use SFTP; ask the server's administrator",
            ),
            _ => (ErrorKind::Other, ""),
        },
    };
    with_hint(Error::new(kind, what), hint).with_source(plain(error.message().as_bytes()))
}

/// `path` as users read it.
pub fn shown(path: &TargetPath) -> String {
    if path.is_root() { "the target's folder".to_owned() } else { format!("'{}'", path.display()) }
}

/// Whether the server refused a write to an open file because it was not the next in the file's order, or because the file
/// was not empty, as servers do that keep their files in a cloud. Whoever may not write at all is told so by the open.
pub fn out_of_order(code: u32, words: &str) -> bool {
    matches!(code, UNSUPPORTED | DENIED) || code == FAILURE && words.to_ascii_lowercase().contains("seek")
}

/// Nothing usable is staged under the token.
pub fn stale(path: &TargetPath, why: &str) -> Error {
    Error::new(ErrorKind::StaleToken, format!("{} {why}", shown(path)))
        .with_context("hint", "the file is sent again from the start")
}

pub fn exists(path: &TargetPath) -> Error {
    Error::new(ErrorKind::Exists, format!("{} exists already", shown(path)))
}

pub fn changed(path: &TargetPath, gone: bool) -> Error {
    let what = if gone { "is gone" } else { "was changed by somebody else" };
    Error::new(ErrorKind::PreconditionFailed, format!("{} {what}", shown(path)))
}

pub fn no_space(path: &TargetPath, needed: u64, free: u64) -> Error {
    Error::new(
        ErrorKind::NoSpace,
        format!("no room for {}: {needed} more bytes are needed, {free} are free", shown(path)),
    )
    .with_context("hint", "free space on the target or choose a larger one")
}

pub fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

pub fn with_hint(error: Error, hint: &str) -> Error {
    if hint.is_empty() { error } else { error.with_context("hint", hint) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use offsite_plugin_api::Retry;

    #[test]
    fn a_write_out_of_order_is_told_from_a_full_disk() {
        // What rclone, some cloud gateways, and OpenSSH on a full disk say.
        assert!(
            out_of_order(FAILURE, "Illegal seek")
                && out_of_order(UNSUPPORTED, "")
                && out_of_order(DENIED, "")
        );
        assert!(!out_of_order(FAILURE, "Failure") && !out_of_order(FAILURE, "No space left on device"));
    }

    #[test]
    fn a_lost_connection_is_worth_another_try_and_a_refusal_is_not() {
        for (code, kind, retry) in [
            (libssh2_sys::LIBSSH2_ERROR_SOCKET_DISCONNECT, ErrorKind::Interrupted, Retry::Now),
            (libssh2_sys::LIBSSH2_ERROR_BANNER_RECV, ErrorKind::Interrupted, Retry::Now),
            (libssh2_sys::LIBSSH2_ERROR_KEX_FAILURE, ErrorKind::Unsupported, Retry::Never),
            (libssh2_sys::LIBSSH2_ERROR_AUTHENTICATION_FAILED, ErrorKind::Unauthenticated, Retry::Never),
            (libssh2_sys::LIBSSH2_ERROR_HOSTKEY_SIGN, ErrorKind::UntrustedPeer, Retry::Never),
        ] {
            let error = session("cannot log in", &ssh2::Error::from_errno(ssh2::ErrorCode::Session(code)));
            assert_eq!((error.kind(), error.retry()), (&kind, retry), "{code}");
        }
    }

    #[test]
    fn status_codes_have_their_kinds() {
        let path = TargetPath::new("a/b").unwrap();
        for (code, kind) in [
            (NO_SUCH_FILE, ErrorKind::NotFound),
            (DENIED, ErrorKind::Denied),
            (BAD_MESSAGE, ErrorKind::NameRefused),
            (14, ErrorKind::NoSpace),
            (15, ErrorKind::Quota),
            (FAILURE, ErrorKind::Other),
        ] {
            let error = status("write", &path, code, "words");
            assert_eq!(error.kind(), &kind, "{code}");
            assert!(error.to_string().contains("'a/b'") && error.to_string().contains("words"), "{error}");
        }
    }
}
