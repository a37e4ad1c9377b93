//! What the user wrote (URL, options, secrets) to where to connect, as whom, proved how, and below which path.
//!
//! `sftp://[user@]host[:port]/path`: the path is percent-decoded and absolute on the server; `/~` and `/~/dir` mean the
//! account's home folder, where an SFTP session starts.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use offsite_plugin_api::{Result, Secrets, Zeroizing};
use serde::Deserialize;

use super::error::invalid;

#[derive(Clone, Debug)]
pub struct Config {
    pub user: String,
    /// As given to the resolver: a name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
    /// `/` for the server's root, `.` for the home folder, else without a slash at its end.
    pub root: Vec<u8>,
    pub logins: Vec<Login>,
    pub host_key: HostKey,
    /// Where known host keys are looked up, in order.
    pub known_hosts: Vec<PathBuf>,
    pub create: bool,
    pub connect_timeout: std::time::Duration,
    pub digest: Option<DigestCommand>,
}

/// One way to log in.
#[derive(Clone)]
pub enum Login {
    Password(Zeroizing<String>),
    KeyFile(PathBuf, Option<Zeroizing<String>>),
    KeyText(Zeroizing<String>, Option<Zeroizing<String>>),
    Agent,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "password",
            Self::KeyFile(..) | Self::KeyText(..) => "key",
            Self::Agent => "agent",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostKey {
    Strict,
    AcceptNew,
    /// Base64 of the key's SHA-256 without padding.
    Pinned(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestCommand {
    pub command: String,
    pub algorithm: &'static str,
    /// Bytes of the digest.
    pub length: usize,
}

/// The commands whose output is understood, by their name.
const DIGESTS: &[(&str, &str, usize)] = &[
    ("b3sum", "blake3", 32),
    ("sha256sum", "sha256", 32),
    ("sha512sum", "sha512", 64),
    ("sha1sum", "sha1", 20),
    ("md5sum", "md5", 16),
];

/// `options.schema.json` in Rust, without the secrets.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    user: Option<String>,
    auth: Auth,
    key_file: Option<String>,
    host_key: String,
    known_hosts: Option<String>,
    create: bool,
    connect_timeout: u64,
    server_digest_command: Option<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Auth {
    Auto,
    Password,
    Key,
    Agent,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            user: None,
            auth: Auth::Auto,
            key_file: None,
            host_key: "strict".to_owned(),
            known_hosts: None,
            create: true,
            connect_timeout: 20,
            server_digest_command: None,
        }
    }
}

impl Config {
    /// Errors: `InvalidConfig`. None repeats a secret.
    pub fn new(url: &str, options: &serde_json::Value, secrets: &Secrets) -> Result<Self> {
        let options = match options {
            serde_json::Value::Null => Options::default(),
            given => {
                Options::deserialize(given).map_err(|e| invalid(format!("the options are wrong: {e}")))?
            }
        };
        let place = Place::parse(url)?;
        let user = match (place.user, &options.user) {
            (Some(a), Some(b)) if a != *b => {
                return Err(invalid(format!(
                    "the URL names the user '{a}' and the option user '{b}'; give one of them"
                )));
            }
            (Some(user), _) => user,
            (None, Some(user)) => user.clone(),
            (None, None) => own_name()?,
        };
        if user.is_empty() || user.contains(|c: char| c.is_control()) {
            return Err(invalid("the user's name is empty or holds control characters"));
        }
        if !(1..=300).contains(&options.connect_timeout) {
            return Err(invalid("the option connect_timeout must be from 1 to 300 seconds"));
        }
        let known_hosts = match &options.known_hosts {
            Some(file) => vec![expand(file)],
            None => home().map(|h| h.join(".ssh/known_hosts")).into_iter().chain([GLOBAL.into()]).collect(),
        };
        Ok(Self {
            user,
            host: place.host,
            port: place.port,
            root: place.root,
            logins: logins(&options, secrets)?,
            host_key: host_key(&options.host_key)?,
            known_hosts,
            create: options.create,
            connect_timeout: std::time::Duration::from_secs(options.connect_timeout),
            digest: options.server_digest_command.as_deref().map(digest_command).transpose()?,
        })
    }

    /// `host:port`, with the brackets an IPv6 address needs.
    pub fn server(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// One text for one place, whatever way it was written.
    pub fn identity(&self) -> String {
        let home = if self.root.starts_with(b"/") { "" } else { "/~/" };
        format!("sftp://{}@{}{home}{}", self.user, self.server(), self.root.escape_ascii())
    }
}

const GLOBAL: &str = "/etc/ssh/ssh_known_hosts";

fn logins(options: &Options, secrets: &Secrets) -> Result<Vec<Login>> {
    let given =
        |name: &str| secrets.get(name).filter(|v| !v.is_empty()).map(|v| Zeroizing::new(v.to_owned()));
    let passphrase = given("passphrase");
    let password = given("password").map(Login::Password);
    let key = match (&options.key_file, given("key")) {
        (Some(_), Some(_)) => {
            return Err(invalid("both key_file and the credential key are given; give one of them"));
        }
        (Some(file), None) => Some(Login::KeyFile(expand(file), passphrase)),
        (None, Some(text)) => Some(Login::KeyText(text, passphrase)),
        (None, None) => None,
    };
    match options.auth {
        Auth::Password => {
            Ok(vec![password.ok_or_else(|| invalid("auth = \"password\" needs the credential password"))?])
        }
        Auth::Key => Ok(vec![
            key.ok_or_else(|| invalid("auth = \"key\" needs the option key_file or the credential key"))?,
        ]),
        Auth::Agent => Ok(vec![Login::Agent]),
        Auth::Auto => {
            let all: Vec<_> = key.into_iter().chain(password).collect();
            Ok(if all.is_empty() { vec![Login::Agent] } else { all })
        }
    }
}

fn host_key(text: &str) -> Result<HostKey> {
    match text {
        "strict" => Ok(HostKey::Strict),
        "accept-new" => Ok(HostKey::AcceptNew),
        _ => match text.strip_prefix("SHA256:").map(|t| t.trim_end_matches('=')) {
            Some(print)
                if print.len() == 43
                    && print.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b)) =>
            {
                Ok(HostKey::Pinned(print.to_owned()))
            }
            _ => Err(invalid(
                "the option host_key must be strict, accept-new or a fingerprint (SHA256: and 43 characters, as \
                 ssh-keygen -lf shows it)",
            )),
        },
    }
}

fn digest_command(command: &str) -> Result<DigestCommand> {
    // It goes through the server's shell.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._+-".contains(&b);
    let name = command.rsplit('/').next().unwrap_or_default();
    match DIGESTS.iter().find(|(known, ..)| *known == name) {
        Some((_, algorithm, length)) if command.bytes().all(plain) && !command.starts_with('-') => {
            Ok(DigestCommand { command: command.to_owned(), algorithm, length: *length })
        }
        _ => Err(invalid(format!(
            "the option server_digest_command must be one of {} (with or without a path, without arguments)",
            DIGESTS.map_names()
        ))),
    }
}

trait Names {
    fn map_names(&self) -> String;
}

impl Names for [(&str, &str, usize)] {
    fn map_names(&self) -> String {
        self.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ")
    }
}

fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|h| !h.is_empty()).map(PathBuf::from)
}

fn expand(file: &str) -> PathBuf {
    match (file.strip_prefix("~/"), home()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(file),
    }
}

fn own_name() -> Result<String> {
    ["LOGNAME", "USER"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()))
        .ok_or_else(|| invalid("no user is given: write sftp://user@host/path or set the option user"))
}

struct Place {
    user: Option<String>,
    host: String,
    port: u16,
    root: Vec<u8>,
}

impl Place {
    fn parse(url: &str) -> Result<Self> {
        let scheme = url.get(..7).filter(|s| s.eq_ignore_ascii_case("sftp://"));
        let rest =
            scheme.and_then(|_| url.get(7..)).ok_or_else(|| invalid("the URL must begin with sftp://"))?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, authority),
        };
        let user = match user {
            // Never repeated: it may hold a password.
            Some(user) if user.contains(':') => {
                return Err(invalid(
                    "the URL holds a password; remove it and give it as the credential password",
                ));
            }
            Some(user) => Some(text(user)?),
            None => None,
        };
        if path.contains(['?', '#']) {
            return Err(invalid("write '?' as %3F and '#' as %23 in the URL"));
        }
        let (host, port) = split_port(address)?;
        let port = match port {
            None => 22,
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(invalid(format!("'{port}' in the URL is no port (1 to 65535)"))),
            },
        };
        if path.is_empty() {
            return Err(invalid(
                "the URL names no folder: write sftp://host/path, or sftp://host/~ for the account's home folder",
            ));
        }
        Ok(Self { user, host, port, root: root(path)? })
    }
}

fn split_port(address: &str) -> Result<(String, Option<&str>)> {
    if let Some(inner) = address.strip_prefix('[') {
        let (ip, after) = inner.split_once(']').ok_or_else(|| invalid("the URL's '[' has no ']'"))?;
        let bare = ip.split('%').next().unwrap_or(ip);
        let parsed: Ipv6Addr =
            bare.parse().map_err(|_| invalid(format!("'{ip}' in the URL is no IPv6 address")))?;
        // A zone (fe80::1%eth0, written %25) stays.
        let zone = ip.split_once('%').map(|(_, z)| format!("%{}", z.strip_prefix("25").unwrap_or(z)));
        let port = match after.strip_prefix(':') {
            Some(port) => Some(port),
            None if after.is_empty() => None,
            None => return Err(invalid("after ']' in the URL only a port may follow")),
        };
        return Ok((format!("{parsed}{}", zone.unwrap_or_default()), port));
    }
    let (host, port) = match address.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            return Err(invalid("write an IPv6 address in brackets: sftp://[::1]/path"));
        }
        Some((host, port)) => (host, Some(port)),
        None => (address, None),
    };
    let host = text(host)?.to_lowercase();
    if host.is_empty()
        || host.contains(|c: char| c.is_control() || c.is_whitespace() || "/@[]:\\".contains(c))
    {
        return Err(invalid("the URL names no usable host"));
    }
    Ok((host, port))
}

fn root(path: &str) -> Result<Vec<u8>> {
    let decoded = decode(path)?;
    if decoded.iter().any(|b| matches!(b, 0 | b'\r' | b'\n')) {
        return Err(invalid("the URL's path holds a NUL, CR or LF"));
    }
    let mut parts: Vec<&[u8]> =
        decoded.split(|&b| b == b'/').filter(|p| !p.is_empty() && *p != b".").collect();
    if parts.contains(&&b".."[..]) {
        return Err(invalid("the URL's path holds '..'; write the path without it"));
    }
    // Only as written: %7E is a folder of that name.
    let home = path == "/~" || path.starts_with("/~/");
    if home {
        parts.remove(0);
    }
    let joined = parts.join(&b'/');
    Ok(match (home, joined.is_empty()) {
        (true, true) => b".".to_vec(),
        // A relative path must not be taken for something else.
        (true, false) => joined,
        (false, _) => [b"/", &joined[..]].concat(),
    })
}

fn text(part: &str) -> Result<String> {
    String::from_utf8(decode(part)?).map_err(|_| invalid("user and host in the URL must be UTF-8"))
}

fn decode(part: &str) -> Result<Vec<u8>> {
    let mut after = part.split('%').skip(1);
    if !after.all(|t| t.len() >= 2 && t.bytes().take(2).all(|b| b.is_ascii_hexdigit())) {
        return Err(invalid(
            "a '%' in the URL has no two hexadecimal digits after it; write '%' itself as %25",
        ));
    }
    Ok(percent_encoding::percent_decode_str(part).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use offsite_plugin_api::ErrorKind;
    use serde_json::json;

    fn config(url: &str) -> Result<Config> {
        Config::new(url, &json!({"user": "ann"}), &Secrets::default())
    }

    #[test]
    fn urls_name_user_host_port_and_path() {
        for (url, identity, root) in [
            ("sftp://nas/backup", "sftp://ann@nas:22/backup", "/backup"),
            ("SFTP://NAS.Example:2222/a%20b//c/./", "sftp://ann@nas.example:2222/a b/c", "/a b/c"),
            ("sftp://nas/~", "sftp://ann@nas:22/~/.", "."),
            ("sftp://nas/~/x/y/", "sftp://ann@nas:22/~/x/y", "x/y"),
            ("sftp://nas/%7E", "sftp://ann@nas:22/~", "/~"),
            ("sftp://nas/", "sftp://ann@nas:22/", "/"),
            ("sftp://[::1]:22/a%25%23", "sftp://ann@[::1]:22/a%#", "/a%#"),
            ("sftp://[0:0::1]/x", "sftp://ann@[::1]:22/x", "/x"),
            ("sftp://ann@192.0.2.1/x", "sftp://ann@192.0.2.1:22/x", "/x"),
        ] {
            let config = config(url).unwrap();
            assert_eq!(
                (config.identity().as_str(), config.root.as_slice()),
                (identity, root.as_bytes()),
                "{url}"
            );
        }
    }

    #[test]
    fn what_cannot_be_a_target_is_refused_and_no_password_repeated() {
        for url in [
            "sftp://",
            "sftp://nas",
            "ftp://nas/x",
            "sftp:///x",
            "sftp://nas:0/x",
            "sftp://nas:70000/x",
            "sftp://::1/x",
            "sftp://[::1/x",
            "sftp://nas/a%2",
            "sftp://nas/a%00",
            "sftp://nas/../x",
            "sftp://nas/a?b",
            "sftp://bob@nas/x",
            "sftp://ann:hunter2@nas/x",
        ] {
            let error = config(url).unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::InvalidConfig, "{url}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        for options in [
            json!({"usr": "x"}),
            json!({"host_key": "none"}),
            json!({"server_digest_command": "rm -rf"}),
            json!({"server_digest_command": "/bin/sh"}),
            json!({"auth": "key"}),
            json!({"auth": "password"}),
        ] {
            assert!(Config::new("sftp://a@b/c", &options, &Secrets::default()).is_err(), "{options}");
        }
    }

    #[test]
    fn logins_follow_what_is_given() {
        let secret = |name: &str| Secrets(vec![(name.to_owned(), Zeroizing::new("x".to_owned()))]);
        let shown = |options, secrets: &Secrets| {
            format!("{:?}", Config::new("sftp://a@b/c", &options, secrets).unwrap().logins)
        };
        assert_eq!(shown(json!({}), &Secrets::default()), "[agent]");
        assert_eq!(shown(json!({}), &secret("password")), "[password]");
        assert_eq!(shown(json!({"key_file": "/k"}), &secret("password")), "[key, password]");
        assert_eq!(shown(json!({"auth": "password", "key_file": "/k"}), &secret("password")), "[password]");
        let digest = json!({"server_digest_command": "/opt/bin/b3sum"});
        let digest = Config::new("sftp://a@b/c", &digest, &Secrets::default()).unwrap().digest.unwrap();
        assert_eq!((digest.algorithm, digest.length), ("blake3", 32));
    }

    #[test]
    fn the_schema_names_exactly_the_options_that_are_read() {
        let schema: serde_json::Value = serde_json::from_str(include_str!("../options.schema.json")).unwrap();
        let properties = schema["properties"].as_object().unwrap();
        let (secrets, options): (Vec<_>, Vec<_>) =
            properties.iter().partition(|(_, p)| p["x-secret"] == json!(true));
        assert_eq!(secrets.len(), 3);
        assert_eq!(options.len(), 8);
        for (name, property) in options {
            let value = match name.as_str() {
                "user" => json!("a"),
                "server_digest_command" => json!("sha256sum"),
                "known_hosts" | "key_file" => json!("/a"),
                _ => property["default"].clone(),
            };
            Config::new("sftp://a@b/c", &json!({ name.as_str(): value }), &Secrets::default()).unwrap();
        }
    }
}
