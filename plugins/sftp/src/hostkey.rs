//! Whether a server's host key is the one that is expected, from known_hosts files, remembered keys or a pinned fingerprint.
//!
//! Decided before any credential is sent. The lines that apply to the host are found before the handshake, so that the
//! server is asked for a type of key that is known: any other would look like a changed key.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use offsite_plugin_api::{Error, ErrorKind, Result};
use ssh2::{CheckResult, HashType, KnownHostFileKind, Session};

use super::config::{Config, HostKey};

/// What is asked for, best first; SHA-1 signatures (`ssh-rsa`) are not among them.
const TYPES: &[(&str, &[&str])] = &[
    ("ssh-ed25519", &["ssh-ed25519"]),
    ("ecdsa-sha2-nistp256", &["ecdsa-sha2-nistp256"]),
    ("ecdsa-sha2-nistp384", &["ecdsa-sha2-nistp384"]),
    ("ecdsa-sha2-nistp521", &["ecdsa-sha2-nistp521"]),
    ("ssh-rsa", &["rsa-sha2-512", "rsa-sha2-256"]),
];
/// Largest known_hosts file read, bytes.
const LARGEST: u64 = 16 << 20;

/// One key of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// `ssh-ed25519`, …
    pub kind: String,
    /// Base64 without padding, as known_hosts has it.
    pub key: String,
    pub revoked: bool,
    /// Where it was found: a file and line, or where else.
    pub place: String,
}

/// The keys that the files name for this host. A file that is not there names none; one that cannot be read is an error,
/// because it might hold the key that unmasks another.
pub fn known(session: &Session, config: &Config) -> Result<Vec<Known>> {
    let mut found = Vec::new();
    for file in &config.known_hosts {
        let text = match read(file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => {
                return Err(Error::io(format!("cannot read the known_hosts file {}", file.display()), &e));
            }
        };
        for (number, line) in text.lines().enumerate() {
            if let Some((known, hosts)) = parse(line)
                && applies(session, hosts, config)
            {
                found.push(Known { place: format!("{}, line {}", file.display(), number + 1), ..known });
            }
        }
    }
    Ok(found)
}

fn read(file: &PathBuf) -> std::io::Result<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(file)?.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A line's key and its hosts field. `@cert-authority` lines are left out: certificates are not understood here.
pub fn parse(line: &str) -> Option<(Known, &str)> {
    let mut words = line.split_ascii_whitespace();
    let mut hosts = words.next().filter(|w| !w.starts_with('#'))?;
    let revoked = hosts == "@revoked";
    if revoked {
        hosts = words.next()?;
    }
    let (kind, key) = (words.next()?, words.next()?);
    if hosts.starts_with('@') {
        return None;
    }
    let known = Known {
        kind: kind.to_owned(),
        key: key.trim_end_matches('=').to_owned(),
        revoked,
        place: String::new(),
    };
    Some((known, hosts))
}

/// sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT": patterns, or one hashed name. As ssh does, a host on another port is looked up
/// with its port and without.
fn applies(session: &Session, hosts: &str, config: &Config) -> bool {
    let names = if config.port == 22 {
        vec![config.host.clone()]
    } else {
        vec![format!("[{}]:{}", config.host, config.port), config.host.clone()]
    };
    if hosts.starts_with("|1|") {
        return names.iter().any(|name| hashed(session, hosts, name));
    }
    let mut matched = false;
    for pattern in hosts.split(',') {
        match pattern.strip_prefix('!') {
            Some(not) if names.iter().any(|n| glob(not.as_bytes(), n.as_bytes())) => return false,
            Some(_) => {}
            None => matched |= names.iter().any(|n| glob(pattern.as_bytes(), n.as_bytes())),
        }
    }
    matched
}

/// libssh2 knows the hash; a line with a key of our own tells whether the name is this one.
fn hashed(session: &Session, hosts: &str, name: &str) -> bool {
    const KEY: &[u8] = b"\0\0\0\x0bssh-ed25519\0\0\0\x20offsite-offsite-offsite-offsite-";
    let line = format!("{hosts} ssh-ed25519 {}", STANDARD.encode(KEY));
    session.known_hosts().is_ok_and(|mut list| {
        list.read_str(&line, KnownHostFileKind::OpenSSH).is_ok()
            && matches!(list.check(name, KEY), CheckResult::Match)
    })
}

fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || c.eq_ignore_ascii_case(&name[n]) => {
                p += 1;
                n += 1;
            }
            _ => match star {
                // The last star takes one byte more.
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// The host key algorithms to ask for, the types that are known first.
pub fn preference(known: &[Known]) -> String {
    let is_known = |kind: &str| known.iter().any(|k| k.kind == kind && !k.revoked);
    let (first, then): (Vec<_>, Vec<_>) = TYPES.iter().partition(|(kind, _)| is_known(kind));
    first.iter().chain(&then).flat_map(|(_, names)| names.iter().copied()).collect::<Vec<_>>().join(",")
}

/// What the server showed.
pub struct Shown {
    pub kind: String,
    pub key: String,
    pub fingerprint: String,
}

pub fn shown(session: &Session) -> Result<Shown> {
    let nothing = || Error::new(ErrorKind::UntrustedPeer, "the server showed no host key");
    let (blob, _) = session.host_key().ok_or_else(nothing)?;
    let print = session.host_key_hash(HashType::Sha256).ok_or_else(nothing)?;
    // A key begins with its type, a length before it (RFC 4253 §6.6).
    let kind = super::wire::In(blob).bytes().map_err(|_| nothing())?;
    Ok(Shown {
        kind: super::wire::plain(kind),
        key: STANDARD_NO_PAD.encode(blob),
        fingerprint: STANDARD_NO_PAD.encode(print),
    })
}

impl Shown {
    /// As a line of known_hosts.
    pub fn line(&self, config: &Config) -> String {
        let host = if config.port == 22 {
            config.host.clone()
        } else {
            format!("[{}]:{}", config.host, config.port)
        };
        format!("{host} {} {}", self.kind, self.key)
    }
}

/// Whether to go on. `Ok(true)`: the key is new and accepted, remember it. Errors: `UntrustedPeer`.
pub fn judge(config: &Config, known: &[Known], shown: &Shown) -> Result<bool> {
    let server = config.server();
    let refuse = |message: String, hint: String| {
        Err(Error::new(ErrorKind::UntrustedPeer, message)
            .with_context("key", format!("{} SHA256:{}", shown.kind, shown.fingerprint))
            .with_context("hint", hint))
    };
    if let Some(k) = known.iter().find(|k| k.revoked && k.key == shown.key) {
        return refuse(
            format!("the host key of {server} is marked as revoked in {}", k.place),
            "ask the server's administrator".to_owned(),
        );
    }
    if let HostKey::Pinned(print) = &config.host_key {
        if *print == shown.fingerprint {
            return Ok(false);
        }
        return refuse(
            format!("the host key of {server} is not the pinned one: SHA256:{print} is expected"),
            "someone may be in between; if the server was set up anew, compare the fingerprint there and change host_key"
                .to_owned(),
        );
    }
    let trusted: Vec<_> = known.iter().filter(|k| !k.revoked).collect();
    if trusted.iter().any(|k| k.key == shown.key) {
        return Ok(false);
    }
    if let Some(other) = trusted.iter().find(|k| k.kind == shown.kind).or(trusted.first()) {
        return refuse(
            format!(
                "the host key of {server} has changed: {} (in {}) is expected",
                fingerprint_of(other),
                other.place
            ),
            "someone may be in between; if the server was set up anew, compare the fingerprint there and remove the old key"
                .to_owned(),
        );
    }
    if config.host_key == HostKey::AcceptNew {
        return Ok(true);
    }
    refuse(
        format!("the host key of {server} is not known"),
        format!(
            "compare the fingerprint with the server's, then pin it (host_key = \"SHA256:{}\"), or connect once with ssh so \
             that known_hosts has it, or set host_key = \"accept-new\"",
            shown.fingerprint
        ),
    )
}

fn fingerprint_of(known: &Known) -> String {
    use sha2::Digest;
    match STANDARD_NO_PAD.decode(&known.key) {
        Ok(blob) => format!("{} SHA256:{}", known.kind, STANDARD_NO_PAD.encode(sha2::Sha256::digest(blob))),
        Err(_) => known.kind.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use offsite_plugin_api::Secrets;

    fn config(url: &str, host_key: &str) -> Config {
        Config::new(url, &serde_json::json!({ "host_key": host_key }), &Secrets::default()).unwrap()
    }

    #[test]
    fn names_patterns_ports_and_hashes_are_found() {
        let session = Session::new().unwrap();
        // ssh-keygen -H of "nas.example" with a fixed salt is checked against a real file in the tests with a server.
        for (hosts, url, found) in [
            ("nas", "sftp://a@nas/x", true),
            ("NAS", "sftp://a@nas/x", true),
            ("other,nas", "sftp://a@nas/x", true),
            ("*.example", "sftp://a@nas.example/x", true),
            ("*.example,!nas.example", "sftp://a@nas.example/x", false),
            ("nas", "sftp://a@nas:2222/x", true),
            ("[nas]:2222", "sftp://a@nas:2222/x", true),
            ("[nas]:2222", "sftp://a@nas/x", false),
            ("::1", "sftp://a@[::1]/x", true),
            ("192.0.2.?", "sftp://a@192.0.2.7/x", true),
        ] {
            assert_eq!(applies(&session, hosts, &config(url, "strict")), found, "{hosts} for {url}");
        }
    }

    #[test]
    fn comments_and_certificate_authorities_are_no_keys() {
        assert!(parse("# nas ssh-rsa AAAA").is_none());
        assert!(parse("@cert-authority * ssh-rsa AAAA").is_none());
        assert!(parse("nas ssh-rsa").is_none());
        let (known, hosts) = parse("@revoked nas ssh-rsa AAAA== comment").unwrap();
        assert_eq!((known.revoked, known.key.as_str(), hosts), (true, "AAAA", "nas"));
    }

    #[test]
    fn known_types_are_asked_for_first() {
        let rsa = parse("nas ssh-rsa AAAA").unwrap().0;
        assert!(preference(&[rsa]).starts_with("rsa-sha2-512,rsa-sha2-256,ssh-ed25519"));
        assert!(preference(&[]).starts_with("ssh-ed25519"));
    }

    #[test]
    fn only_the_expected_key_passes() {
        let print = "A".repeat(43);
        let shown = |key: &str| Shown { kind: "ssh-rsa".into(), key: key.into(), fingerprint: print.clone() };
        let known = |line: &str| vec![parse(line).unwrap().0];
        let url = "sftp://a@nas/x";
        let same = known("nas ssh-rsa AAAA");
        for mode in ["strict", "accept-new"] {
            assert!(!judge(&config(url, mode), &same, &shown("AAAA")).unwrap());
            assert!(judge(&config(url, mode), &same, &shown("BBBB")).is_err(), "changed");
            assert!(
                judge(&config(url, mode), &known("nas ssh-ed25519 C"), &shown("A")).is_err(),
                "other type"
            );
            assert!(judge(&config(url, mode), &known("@revoked nas ssh-rsa AAAA"), &shown("AAAA")).is_err());
        }
        assert!(judge(&config(url, "strict"), &[], &shown("AAAA")).is_err());
        assert!(judge(&config(url, "accept-new"), &[], &shown("AAAA")).unwrap());
        assert!(!judge(&config(url, &format!("SHA256:{print}")), &[], &shown("AAAA")).unwrap());
        let error =
            judge(&config(url, &format!("SHA256:{}", "B".repeat(43))), &same, &shown("AAAA")).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::UntrustedPeer);
        assert!(error.to_string().contains(&print), "{error}");
    }
}
