//! What a server or the way to it answers, to the contract's errors: one table for reply codes, one for broken connections.
//!
//! FTP has one code, 550, for "there is none", "you may not" and "the disk is full", so the server's words are looked at where
//! the code leaves it open. What it writes is untrusted: cut short, without control characters, never more than a source text.

use std::io;

use offsite_plugin_api::{Error, ErrorKind, Retry, TargetPath};
use rustls::CertificateError;
use suppaftp::FtpError;

use super::config::{Config, Tls};
use super::reply::Reply;

/// `path` as users read it.
pub fn shown(path: &TargetPath) -> String {
    if path.is_root() { "the target's folder".to_owned() } else { format!("'{}'", path.display()) }
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

pub fn not_found(path: &TargetPath) -> Error {
    Error::new(ErrorKind::NotFound, format!("{} does not exist", shown(path)))
}

/// What went wrong with one command or transfer, before it is known on what.
#[derive(Debug)]
pub enum Fault {
    /// The server answered, and not what was wanted.
    Said(Reply),
    /// The connection broke, or was never made.
    Socket(io::Error),
    /// The server's answer cannot be read.
    Nonsense(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

impl From<FtpError> for Fault {
    fn from(error: FtpError) -> Self {
        match error {
            FtpError::UnexpectedResponse(response) => Self::Said(Reply::new(&response)),
            FtpError::ConnectionError(error) => Self::Socket(error),
            FtpError::SecureError(text) => Self::Nonsense(text),
            other => Self::Nonsense(other.to_string()),
        }
    }
}

impl Fault {
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Said(reply) => Some(reply.code),
            _ => None,
        }
    }

    /// Whether the control connection may still be used.
    pub fn keeps(&self) -> bool {
        matches!(self, Self::Said(reply) if reply.code != 421 && reply.code != 0)
    }
}

/// The error met when trying to `act` ("write", "list", …) on `what`.
pub fn failed(act: &str, what: &str, fault: &Fault) -> Error {
    let (kind, retry, hint) = match fault {
        Fault::Said(reply) => meaning(reply),
        Fault::Socket(error) => of_socket(error),
        Fault::Nonsense(_) => {
            (ErrorKind::Interrupted, Retry::Now, "the server sent something that cannot be read")
        }
    };
    let source = match fault {
        Fault::Said(reply) => reply.words(),
        Fault::Socket(error) => error.to_string(),
        Fault::Nonsense(text) => text.chars().filter(|c| !c.is_control()).take(200).collect(),
    };
    let error = Error::new(kind, format!("cannot {act} {what}")).with_retry(retry).with_source(source);
    if hint.is_empty() { error } else { error.with_context("hint", hint) }
}

/// The error of a login that the server did not take.
pub fn refused_login(config: &Config, reply: &Reply) -> Error {
    // Servers have many codes for it: 503, 530, 534, 550.
    let wants_tls =
        config.tls == Tls::None && reply.says(&["encrypt", "tls", "ssl", "cleartext", "auth first"]);
    let (kind, retry, hint) = match reply.code {
        _ if wants_tls => {
            (ErrorKind::Denied, Retry::Never, "the server takes no login without encryption: use ftps:")
        }
        530 if reply.says(&["too many", "maximum"]) => meaning(&Reply { code: 421, ..reply.clone() }),
        430 | 530 | 532 if config.password.is_empty() => {
            (ErrorKind::Unauthenticated, Retry::Never, "no password was given")
        }
        _ => meaning(reply),
    };
    let error = Error::new(kind, format!("cannot log in at {}", config.server())).with_retry(retry);
    let error = error.with_source(reply.words());
    if hint.is_empty() { error } else { error.with_context("hint", hint) }
}

const ROOM: &str = "free space on the server or choose another one";
const FULL: [&str; 5] = ["no space", "disk full", "insufficient", "out of space", "exceeded storage"];
const ABSENT: [&str; 6] =
    ["no such file", "not found", "does not exist", "doesn't exist", "cannot find", "can't find"];
const DENIED: [&str; 5] = ["permission", "denied", "not allowed", "forbidden", "not permitted"];

fn meaning(reply: &Reply) -> (ErrorKind, Retry, &'static str) {
    use ErrorKind as K;
    let (now, never) = (Retry::Now, Retry::Never);
    match reply.code {
        _ if reply.says(&["session reuse", "session not reused", "ssl session"]) => {
            (K::Interrupted, now, "the server wants the data connection to continue the TLS session")
        }
        421 if reply.says(&["too many", "limit", "maximum"]) => {
            (K::Busy, now, "the server takes no more connections: lower streams, or raise its limit")
        }
        421 => (K::Interrupted, now, "the server ended the connection"),
        425 => (
            K::Interrupted,
            now,
            "the data connection failed: check the server's passive ports, and the firewalls on the way",
        ),
        426 => (K::Interrupted, now, "the data connection was cut"),
        430 | 530 | 532 => (K::Unauthenticated, never, "check user and password"),
        431 | 534..=537 => {
            (K::Denied, never, "the server's rules on encryption refuse this: check the option tls")
        }
        450 | 451 if reply.says(&["not implemented", "not supported"]) => {
            (K::Unsupported, never, "the server cannot do this")
        }
        450 if reply.says(&ABSENT) => (K::NotFound, never, ""),
        450 => (K::Busy, now, "somebody uses the file on the server"),
        451 if reply.says(&FULL) => (K::NoSpace, never, ROOM),
        451 => (K::Other, now, "the server met a fault of its own"),
        452 => (K::NoSpace, never, ROOM),
        500..=504 => (K::Unsupported, never, "the server does not know this command"),
        521 | 522 => (K::Denied, never, "the server's rules on encryption refuse this: check the option tls"),
        550 | 551 | 553 if reply.says(&["quota"]) => (K::Quota, never, "the quota of the account is used up"),
        550 | 551 | 553 if reply.says(&FULL) => (K::NoSpace, never, ROOM),
        550 | 551 | 553 if reply.says(&["read-only", "read only"]) => {
            (K::ReadOnly, never, "the server's disk is write-protected")
        }
        550 if reply.says(&DENIED) => {
            (K::Denied, never, "the login is right, but this user may not do that here")
        }
        550 if reply.says(&["exist"]) && !reply.says(&ABSENT) => (K::Exists, never, ""),
        550 if reply.says(&["too long"]) => (K::NameRefused, never, "the name is too long for this server"),
        550 if reply.says(&ABSENT) => (K::NotFound, never, ""),
        550 => (K::Denied, never, "check that the folder is there, and that this user may do that in it"),
        552 => (K::NoSpace, never, ROOM),
        553 => (K::Denied, never, "the server refuses the name, or this user may not write there"),
        code if code / 100 == 4 => (K::Other, now, ""),
        code if code / 100 == 5 => (K::Other, never, ""),
        _ => (K::Interrupted, now, "this is not an answer of an FTP server"),
    }
}

fn of_socket(error: &io::Error) -> (ErrorKind, Retry, &'static str) {
    use io::ErrorKind as I;
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return of_tls(tls);
    }
    match error.kind() {
        I::ConnectionRefused => (
            ErrorKind::Unreachable,
            Retry::Now,
            "nothing listens there: check server and port, and that it speaks FTP",
        ),
        I::HostUnreachable | I::NetworkUnreachable => {
            (ErrorKind::Unreachable, Retry::Now, "there is no way to the server")
        }
        I::TimedOut | I::WouldBlock => (ErrorKind::TimedOut, Retry::Now, "the server does not answer"),
        _ => (ErrorKind::Interrupted, Retry::Now, ""),
    }
}

fn of_tls(error: &rustls::Error) -> (ErrorKind, Retry, &'static str) {
    let untrusted = |hint| (ErrorKind::UntrustedPeer, Retry::Never, hint);
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer => {
                untrusted("nobody this system trusts signed the certificate: give the CA's file as ca_file")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                untrusted("the certificate is for another name: use the one that it holds")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                untrusted("the certificate has expired: have it renewed, and check this machine's clock")
            }
            _ => untrusted("the certificate cannot be trusted"),
        },
        rustls::Error::InvalidMessage(_) => (
            ErrorKind::Unsupported,
            Retry::Never,
            "no TLS is spoken there: check the port, and whether the server wants tls = \"explicit\" or \"implicit\"",
        ),
        rustls::Error::AlertReceived(_) | rustls::Error::PeerIncompatible(_) => {
            (ErrorKind::Unsupported, Retry::Never, "the server's TLS does not fit: it needs TLS 1.2 or newer")
        }
        _ => (ErrorKind::Interrupted, Retry::Now, ""),
    }
}

#[cfg(test)]
mod tests {
    use offsite_plugin_api::Secrets;

    use super::*;

    fn said(text: &str) -> (ErrorKind, Retry) {
        let code = text[..3].parse().unwrap();
        let error = failed("write", "'x'", &Fault::Said(Reply { code, bytes: text.as_bytes().to_vec() }));
        (error.kind().clone(), error.retry())
    }

    #[test]
    fn the_kind_decides_what_the_host_does() {
        assert_eq!(said("530 Login incorrect."), (ErrorKind::Unauthenticated, Retry::Never));
        assert_eq!(said("552 Allocation exceeded"), (ErrorKind::NoSpace, Retry::Never));
        assert_eq!(said("451 No space left on device"), (ErrorKind::NoSpace, Retry::Never));
        assert_eq!(said("550 x: Disk quota exceeded"), (ErrorKind::Quota, Retry::Never));
        assert_eq!(said("550 x: No such file or directory"), (ErrorKind::NotFound, Retry::Never));
        assert_eq!(said("550 Permission denied."), (ErrorKind::Denied, Retry::Never));
        assert_eq!(said("553 Could not create file."), (ErrorKind::Denied, Retry::Never));
        assert_eq!(said("421 There are too many connected users"), (ErrorKind::Busy, Retry::Now));
        assert_eq!(said("421 Timeout."), (ErrorKind::Interrupted, Retry::Now));
        assert_eq!(said("450 error: Function not implemented"), (ErrorKind::Unsupported, Retry::Never));
        assert_eq!(said("426 Failure reading network stream."), (ErrorKind::Interrupted, Retry::Now));
        assert_eq!(
            said("522 SSL connection failed; session reuse required"),
            (ErrorKind::Interrupted, Retry::Now)
        );
        assert_eq!(said("502 Command not implemented."), (ErrorKind::Unsupported, Retry::Never));
    }

    #[test]
    fn a_login_is_refused_for_many_reasons() {
        let refused = |url: &str, text: &str| {
            let config = Config::new(url, &serde_json::json!({}), &Secrets::default()).unwrap();
            let code = text[..3].parse().unwrap();
            let error = refused_login(&config, &Reply { code, bytes: text.as_bytes().to_vec() });
            (error.kind().clone(), error.to_string())
        };
        for text in
            ["503 Use AUTH first.", "550 SSL/TLS required on the control channel", "534 Policy requires SSL."]
        {
            let (kind, words) = refused("ftp://u@h/", text);
            assert!(kind == ErrorKind::Denied && words.contains("use ftps:"), "{words}");
        }
        let (kind, words) =
            refused("ftps://u@h/", "530 Sorry, the maximum number of clients (5) for this user");
        assert!(kind == ErrorKind::Busy && words.contains("streams"), "{words}");
        let (kind, words) = refused("ftps://u@h/", "530 Login incorrect.");
        assert!(kind == ErrorKind::Unauthenticated && words.contains("no password was given"), "{words}");
    }

    #[test]
    fn what_a_server_says_is_cut_and_made_harmless() {
        let text = format!("550 \x1b[2J{}\r\n", "x".repeat(10_000));
        let fault = Fault::Said(Reply { code: 550, bytes: text.into_bytes() });
        let error = failed("write", "'x'", &fault).to_string();
        assert!(error.len() < 500 && !error.contains('\x1b'), "{error}");
    }
}
