//! What a server or the way to it answers, to the contract's errors: one table for status codes, one for broken connections.
//!
//! The kind decides whether the host tries again, so a full server, a wrong password and a busy one must not look alike. What a
//! server writes is untrusted: cut short, without control characters, and never more than a source text.

use std::time::{Duration, SystemTime};

use offsite_plugin_api::{Error, ErrorKind, Retry, TargetPath};
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// Longest wait a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(6 * 3600);
/// How much of a server's own words is shown.
const SHOWN: usize = 200;

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

/// The error for a status met when trying to `act` ("write", "list", …) on `what`. `body`: the beginning of the answer.
pub fn refused(act: &str, what: &str, status: StatusCode, headers: &HeaderMap, body: &str) -> Error {
    let (kind, retry, hint) = meaning(status.as_u16());
    let words = words_of(body);
    // Nextcloud answers a used-up quota with 507 as well.
    let kind = match kind {
        ErrorKind::NoSpace if words.to_ascii_lowercase().contains("quota") => ErrorKind::Quota,
        kind => kind,
    };
    let mut error = Error::new(kind, format!("cannot {act} {what}")).with_context("status", text_of(status));
    match (retry, wait_of(headers)) {
        (Retry::Never, _) => error = error.with_retry(Retry::Never),
        (_, Some(wait)) => error = error.with_retry(Retry::After(wait)),
        (retry, None) => error = error.with_retry(retry),
    }
    if !hint.is_empty() {
        error = error.with_context("hint", hint);
    }
    if words.is_empty() { error } else { error.with_source(words) }
}

fn text_of(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

fn meaning(status: u16) -> (ErrorKind, Retry, &'static str) {
    use ErrorKind as K;
    let now = Retry::Now;
    let never = Retry::Never;
    match status {
        400 => (
            K::Other,
            never,
            "the server does not understand the request; is the URL that of a WebDAV folder?",
        ),
        401 => (K::Unauthenticated, never, "check user and password"),
        402 => (K::Quota, never, "the server wants payment for more room"),
        403 => (K::Denied, never, "the login is right, but this user may not do that here"),
        404 | 410 => (K::NotFound, never, ""),
        405 => (
            K::Unsupported,
            never,
            "the server does not do that at this address; is the URL that of a WebDAV folder?",
        ),
        407 => (K::Unauthenticated, never, "a proxy on the way wants a login"),
        408 => (K::TimedOut, now, ""),
        // RFC 4918 §9.7.1: a parent is missing. Somebody removed it meanwhile, and the next attempt makes it again.
        409 => (K::NotFound, now, "the folder it belongs in is missing"),
        411 => (K::Unsupported, never, "a proxy on the way removed the length of the request"),
        412 => (K::PreconditionFailed, never, ""),
        413 => (
            K::TooLarge,
            never,
            "the server or a proxy before it limits the size of a request (Apache: LimitRequestBody; nginx: \
             client_max_body_size): raise that, or with Nextcloud and ownCloud use chunks (chunk_size_mib)",
        ),
        414 | 431 => (K::NameRefused, never, "the name is too long for this server"),
        415 | 501 | 505 => (K::Unsupported, never, ""),
        416 => (K::Corrupt, never, "the file on the server is shorter than it should be"),
        421 | 425 => (K::Busy, now, ""),
        423 => (K::Locked, now, "somebody holds a lock on it, or the server is still at work on it"),
        424 => (K::Locked, now, "the server could not do another thing that this depends on"),
        429 => (K::Throttled, now, "the server asks for fewer requests"),
        500 => (
            K::Other,
            now,
            "the server met a fault of its own; its log says more. Apache says so where its user may not write in the folder",
        ),
        502 | 504 => (K::Unreachable, now, "a proxy does not reach the server behind it"),
        503 => (K::Busy, now, "the server is busy or under maintenance"),
        507 => (K::NoSpace, never, "free space on the server or choose a larger one"),
        508 => (K::Denied, never, "a loop on the server"),
        other if other / 100 == 3 => (
            K::InvalidConfig,
            never,
            "redirects to another address are not followed: credentials and files go only where you say",
        ),
        other if other / 100 == 4 => (K::Other, never, ""),
        other if other / 100 == 5 => (K::Other, now, ""),
        _ => (K::Other, never, "this is not an answer of a WebDAV server"),
    }
}

/// RFC 9110 §10.2.3: seconds, or a date.
fn wait_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok()?,
    };
    Some(wait.min(LONGEST_WAIT))
}

/// What a server says in its body: the message of a DAV error, else the text without its tags.
fn words_of(body: &str) -> String {
    let message = body.split_once(":message>").and_then(|(_, rest)| rest.split('<').next());
    let text = message.filter(|m| !m.trim().is_empty()).map_or_else(|| without_tags(body), str::to_owned);
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    words.join(" ").chars().take(SHOWN).collect()
}

fn without_tags(body: &str) -> String {
    let mut text = String::new();
    let mut rest = body;
    while let Some(open) = rest.find('<') {
        text.push_str(&rest[..open]);
        text.push(' ');
        let after = &rest[open..];
        // The title says it; style and script say nothing.
        let skip = ["style", "script", "head"].iter().find(|t| after[1..].starts_with(**t));
        let end = match skip {
            Some(tag) => after.find(&format!("</{tag}")).unwrap_or(after.len()),
            None => 0,
        };
        rest = after[end..].find('>').map_or("", |close| &after[end + close + 1..]);
    }
    text.push_str(rest);
    text
}

/// The error for a connection that could not be made or broke.
pub fn broken(act: &str, what: &str, error: &reqwest::Error) -> Error {
    let mut chain: Vec<&(dyn std::error::Error + 'static)> = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        chain.push(cause);
        next = cause.source();
    }
    let (kind, hint) = cause(error, &chain);
    let mut text: Vec<String> = Vec::new();
    for part in chain.iter().map(ToString::to_string) {
        if text.last().is_none_or(|last| !last.contains(&part)) {
            text.push(part);
        }
    }
    let source: String = text.join(": ").chars().take(400).collect();
    let made = Error::new(kind, format!("cannot {act} {what}"));
    let made = if hint.is_empty() { made } else { made.with_context("hint", hint) };
    if source.is_empty() { made } else { made.with_source(source) }
}

fn cause(error: &reqwest::Error, chain: &[&(dyn std::error::Error + 'static)]) -> (ErrorKind, &'static str) {
    use std::io::ErrorKind as Io;
    for cause in chain {
        if let Some(tls) = tls_in(*cause) {
            return of_tls(tls);
        }
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            match io.kind() {
                Io::ConnectionRefused => {
                    return (
                        ErrorKind::Unreachable,
                        "nothing listens there: check host and port, and whether the server runs",
                    );
                }
                Io::HostUnreachable | Io::NetworkUnreachable | Io::NetworkDown | Io::AddrNotAvailable => {
                    return (ErrorKind::Unreachable, "there is no way to that host: check the network");
                }
                Io::TimedOut => {
                    return (
                        ErrorKind::TimedOut,
                        "the server does not answer: check host, port and firewalls",
                    );
                }
                _ => {}
            }
        }
        if cause.to_string().contains("dns error") {
            return (
                ErrorKind::Unreachable,
                "the host name is not known: check its spelling and the name service",
            );
        }
    }
    if error.is_timeout() {
        return (ErrorKind::TimedOut, "the server does not answer: check host, port and firewalls");
    }
    if error.is_connect() {
        return (ErrorKind::Unreachable, "check host and port");
    }
    if chain.iter().any(|c| c.to_string().contains("invalid HTTP")) {
        return (ErrorKind::Unsupported, "what answers there does not speak HTTP: check scheme and port");
    }
    let plain = error.url().is_some_and(|url| url.scheme() == "http");
    if plain && chain.iter().any(|c| c.to_string().contains("connection closed before message completed")) {
        return (
            ErrorKind::Interrupted,
            "the connection broke; if the server wants TLS, write https: in the URL",
        );
    }
    (ErrorKind::Interrupted, "the connection broke")
}

/// Libraries wrap one I/O error in another, and such a wrapper hides what it holds from the chain of sources.
fn tls_in<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    match cause.downcast_ref::<std::io::Error>() {
        Some(io) => tls_in(io.get_ref()?),
        None => cause.downcast_ref(),
    }
}

fn of_tls(error: &rustls::Error) -> (ErrorKind, &'static str) {
    use rustls::{AlertDescription, CertificateError as C, Error as E};
    match error {
        E::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => (
            ErrorKind::UntrustedPeer,
            "nobody this machine trusts signed the server's certificate: give its CA as ca_file, or pin it with certificate_sha256",
        ),
        E::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => (
            ErrorKind::UntrustedPeer,
            "the server's certificate is for another name: use the name it was made for as host",
        ),
        E::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => {
            (ErrorKind::UntrustedPeer, "the server's certificate has expired")
        }
        E::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => (
            ErrorKind::UntrustedPeer,
            "the server's certificate is not valid yet: is this machine's clock right?",
        ),
        E::InvalidCertificate(C::ApplicationVerificationFailure) => (
            ErrorKind::UntrustedPeer,
            "the server's certificate is not the one pinned with certificate_sha256",
        ),
        E::InvalidCertificate(_) => (ErrorKind::UntrustedPeer, "the server's certificate is not acceptable"),
        E::AlertReceived(AlertDescription::ProtocolVersion) | E::PeerIncompatible(_) => (
            ErrorKind::UntrustedPeer,
            "the server offers no TLS version or cipher that is safe (TLS 1.2 at least)",
        ),
        E::InvalidMessage(_) => {
            (ErrorKind::UntrustedPeer, "what answers there does not speak TLS: is it http: or another port?")
        }
        _ => (ErrorKind::Interrupted, "the encrypted connection broke"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, body: &str) -> Error {
        refused("write", "'a'", StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body)
    }

    #[test]
    fn each_status_has_its_kind_and_its_chance() {
        for (status, kind, retry) in [
            (301, ErrorKind::InvalidConfig, Retry::Never),
            (401, ErrorKind::Unauthenticated, Retry::Never),
            (403, ErrorKind::Denied, Retry::Never),
            (404, ErrorKind::NotFound, Retry::Never),
            (409, ErrorKind::NotFound, Retry::Now),
            (412, ErrorKind::PreconditionFailed, Retry::Never),
            (413, ErrorKind::TooLarge, Retry::Never),
            (423, ErrorKind::Locked, Retry::Now),
            (429, ErrorKind::Throttled, Retry::Now),
            (500, ErrorKind::Other, Retry::Now),
            (502, ErrorKind::Unreachable, Retry::Now),
            (503, ErrorKind::Busy, Retry::Now),
            (507, ErrorKind::NoSpace, Retry::Never),
            (599, ErrorKind::Other, Retry::Now),
            (200, ErrorKind::Other, Retry::Never),
        ] {
            let error = of(status, "");
            assert_eq!((error.kind(), error.retry()), (&kind, retry), "{status}");
        }
    }

    #[test]
    fn a_wait_the_server_names_is_kept_within_reason() {
        let mut headers = HeaderMap::new();
        let mut wait = |text: &str, status: u16| {
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            refused("write", "'a'", StatusCode::from_u16(status).unwrap(), &headers, "").retry()
        };
        assert_eq!(wait("17", 429), Retry::After(Duration::from_secs(17)));
        assert_eq!(wait("999999999", 503), Retry::After(LONGEST_WAIT));
        assert_eq!(wait("soon", 503), Retry::Now);
        assert_eq!(wait("17", 403), Retry::Never);
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!(matches!(wait(&date, 429), Retry::After(d) if (90..=100).contains(&d.as_secs())));
    }

    #[test]
    fn the_servers_words_are_short_and_harmless() {
        let sabre = "<?xml version=\"1.0\"?><d:error xmlns:d=\"DAV:\" xmlns:s=\"http://sabredav.org/ns\"><s:exception>X</s:exception><s:message>Quota\u{1b}[31m\nexceeded</s:message></d:error>";
        let error = of(507, sabre);
        assert_eq!((error.kind(), error.source_text()), (&ErrorKind::Quota, Some("Quota [31m exceeded")));
        let html = format!(
            "<html><head><title>t</title><style>x</style></head><body><h1>No</h1>{}</body>",
            "y ".repeat(5000)
        );
        let error = of(500, &html);
        let text = error.source_text().unwrap();
        assert!(text.starts_with("No y y") && text.len() <= SHOWN, "{text}");
    }
}
