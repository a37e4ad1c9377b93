//! What the user wrote (URL, options, secrets) to an address, a login and trust.
//!
//! `ftp://[user@]host[:port]/folder`, percent-encoded; the folder is below the one the login starts in, or with a second
//! slash (`//folder`) an absolute one. A password in the URL is refused: URLs are shown and logged.

use std::time::Duration;

use offsite_plugin_api::{Error, ErrorKind, Result, Secrets, Zeroizing};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use url::{Host, Url};

pub const PORT: u16 = 21;
pub const IMPLICIT_PORT: u16 = 990;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    None,
    Explicit,
    Implicit,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Passive {
    #[default]
    Auto,
    Extended,
    Classic,
}

/// No `Debug`: it holds the password.
#[derive(Clone)]
pub struct Config {
    /// Name or address, an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Zeroizing<String>,
    /// The folder begins at the server's root, not where the login starts.
    pub absolute: bool,
    /// Components of the target's folder, bytes as they go to the server.
    pub folder: Vec<Vec<u8>>,
    pub tls: Tls,
    pub ca_file: Option<String>,
    pub passive: Passive,
    pub nat_workaround: bool,
    pub timeout: Duration,
}

/// `options.schema.json` in Rust, without its secrets.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    user: Option<String>,
    tls: Option<Tls>,
    ca_file: Option<String>,
    passive: Passive,
    nat_workaround: bool,
    timeout: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            user: None,
            tls: None,
            ca_file: None,
            passive: Passive::Auto,
            nat_workaround: true,
            timeout: 60,
        }
    }
}

pub fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

impl Config {
    /// Errors: `InvalidConfig`, naming the option; never with what a URL says before its `@`.
    pub fn new(url: &str, options: &serde_json::Value, secrets: &Secrets) -> Result<Self> {
        let options = match options {
            serde_json::Value::Null => Options::default(),
            given => {
                Options::deserialize(given).map_err(|e| invalid(format!("the options are wrong: {e}")))?
            }
        };
        let parsed = parse(url)?;
        if parsed.password().is_some() {
            return Err(invalid("the URL holds a password, and URLs are shown and logged")
                .with_context("hint", "give it as the secret 'password'"));
        }
        let secure = parsed.scheme() == "ftps";
        let tls = match (options.tls, secure) {
            (Some(Tls::None), true) => {
                return Err(invalid("tls = \"none\" contradicts ftps:").with_context("hint", "write ftp://…"));
            }
            (Some(tls), _) => tls,
            (None, true) => Tls::Explicit,
            (None, false) => Tls::None,
        };
        let host = match parsed.host() {
            Some(Host::Domain(name)) => percent_decode_str(name).decode_utf8_lossy().into_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err(wrong("it names no server")),
        };
        let port = match (parsed.port(), tls) {
            (Some(0), _) => return Err(wrong("0 is no port")),
            (Some(port), _) => port,
            (None, Tls::Implicit) => IMPLICIT_PORT,
            (None, _) => PORT,
        };
        let in_url = percent_decode_str(parsed.username())
            .decode_utf8()
            .map_err(|_| invalid("the user in the URL is not UTF-8"))?
            .into_owned();
        let given = options.user.filter(|u| !u.is_empty());
        let user = match (in_url.is_empty(), given) {
            (true, user) => user,
            (false, Some(other)) if other != in_url => {
                return Err(invalid("the URL and the option 'user' name different users; give one"));
            }
            (false, _) => Some(in_url),
        };
        let password = secrets.get("password").unwrap_or_default();
        if user.is_none() && !password.is_empty() {
            return Err(invalid("a password without a user")
                .with_context("hint", "give the option 'user', or ftp://name@host/… as the URL"));
        }
        let breaks = |text: &str| text.chars().any(|c| matches!(c, '\r' | '\n' | '\0'));
        if user.as_deref().is_some_and(breaks) || breaks(password) {
            return Err(invalid("the user or the password holds a line break, which no login can carry"));
        }
        if !(5..=600).contains(&options.timeout) {
            return Err(invalid(format!("'timeout' is {}; it may be 5 to 600", options.timeout)));
        }
        let (absolute, folder) = folder(parsed.path())?;
        Ok(Self {
            host,
            port,
            // RFC 1635: the password of an anonymous login is a courtesy.
            password: Zeroizing::new(if user.is_none() {
                "offsite@".to_owned()
            } else {
                password.to_owned()
            }),
            user: user.unwrap_or_else(|| "anonymous".to_owned()),
            absolute,
            folder,
            tls,
            ca_file: options.ca_file,
            passive: options.passive,
            nat_workaround: options.nat_workaround,
            timeout: Duration::from_secs(options.timeout),
        })
    }

    /// What the user must know of a login that nobody protects. An anonymous one has nothing to lose.
    pub fn unprotected(&self) -> Option<String> {
        if self.tls != Tls::None || self.user == "anonymous" {
            return None;
        }
        Some(format!(
            "the password of '{}' and all images go to {} without encryption, readable for whoever sits on the way; \
             use ftps:// where the server offers TLS",
            self.user, self.host
        ))
    }

    /// User, host, port and path, however the URL wrote them. With TLS or without: the place is the same.
    pub fn identity(&self) -> String {
        let host = self.host.trim_end_matches('.').to_lowercase();
        let root = if self.absolute { "//" } else { "/" };
        let folder: Vec<String> = self
            .folder
            .iter()
            .map(|part| String::from_utf8_lossy(part).escape_default().to_string())
            .collect();
        let path = format!("{root}{}", folder.join("/"));
        format!("ftp:{}@{host}:{}{}", self.user, self.port, path.trim_end_matches('/'))
    }

    /// For people.
    pub fn server(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

fn wrong(why: impl std::fmt::Display) -> Error {
    invalid(format!("the URL is not one of an FTP server: {why}"))
        .with_context("hint", "write ftp://user@host/folder, or ftps://user@host/folder")
}

fn parse(url: &str) -> Result<Url> {
    let (scheme, rest) = url.split_once(':').ok_or_else(|| wrong("it has no scheme"))?;
    if !matches!(scheme.to_ascii_lowercase().as_str(), "ftp" | "ftps") {
        return Err(wrong(format!("the scheme is '{}'", scheme.escape_debug())));
    }
    if !rest.starts_with("//") || rest.starts_with("///") {
        return Err(wrong("'//' and the host must follow the scheme"));
    }
    // Before the parser, which drops them.
    if url.contains(|c: char| c.is_control()) {
        return Err(wrong("it holds a control character"));
    }
    let parsed = Url::parse(url).map_err(wrong)?;
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(wrong("it holds '?' or '#'; in a folder's name write %3F or %23"));
    }
    Ok(parsed)
}

fn folder(path: &str) -> Result<(bool, Vec<Vec<u8>>)> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let (absolute, path) = match path.strip_prefix('/').or_else(|| path.strip_prefix("%2F")) {
        Some(rest) => (true, rest),
        None => (false, path),
    };
    let mut parts = Vec::new();
    for part in path.split('/').filter(|p| !p.is_empty()) {
        let part: Vec<u8> = percent_decode_str(part).collect();
        if matches!(&part[..], b"." | b"..") || part.iter().any(|b| matches!(b, b'/' | b'\r' | b'\n' | 0)) {
            return Err(wrong("its path holds '.', '..', a line break or an encoded slash"));
        }
        parts.push(part);
    }
    Ok((absolute, parts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(url: &str) -> Result<Config> {
        Config::new(url, &json!({}), &Secrets::default())
    }

    #[test]
    fn every_way_to_write_a_server() {
        let plain = config("ftp://backup@nas/images/a%20b%23").unwrap();
        assert_eq!((plain.host.as_str(), plain.port, plain.tls), ("nas", 21, Tls::None));
        assert_eq!((plain.user.as_str(), plain.absolute), ("backup", false));
        assert_eq!(plain.folder, [b"images".to_vec(), b"a b#".to_vec()]);
        let secure = config("FTPS://[2001:db8::1]:2121//srv/x/").unwrap();
        assert_eq!((secure.host.as_str(), secure.port, secure.tls), ("2001:db8::1", 2121, Tls::Explicit));
        assert!(secure.absolute && secure.folder.len() == 2 && secure.user == "anonymous");
        let implicit = Config::new("ftps://u@nas", &json!({"tls": "implicit"}), &Secrets::default()).unwrap();
        assert_eq!((implicit.port, implicit.tls), (990, Tls::Implicit));
    }

    #[test]
    fn what_is_no_server_is_refused_without_its_password() {
        for url in [
            "ftp:nas/x",
            "ftp:///x",
            "ftp://",
            "ftp://u:hunter2@nas/x",
            "ftp://u@nas:0/x",
            "ftp://u@nas/a/%2e%2e/b%2fc",
            "ftp://u@nas/a%0d%0aDELE%20x",
            "ftp://u%0ax@nas/a",
            "ftp://u@nas/a?b",
            "http://nas/",
        ] {
            let error = config(url).err().unwrap_or_else(|| panic!("{url} is taken"));
            assert_eq!(error.kind(), &ErrorKind::InvalidConfig, "{url}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let none = Secrets::default();
        assert!(Config::new("ftps://nas", &json!({"tls": "none"}), &none).is_err());
        assert!(Config::new("ftp://a@nas", &json!({"user": "b"}), &none).is_err());
        assert!(Config::new("ftp://a@nas", &json!({"tlss": "none"}), &none).is_err());
        assert!(Config::new("ftp://a@nas", &json!({"timeout": 1}), &none).is_err());
    }

    #[test]
    fn aliases_have_one_identity() {
        let identity = |url: &str| config(url).unwrap().identity();
        assert_eq!(identity("ftp://u@NAS/a/b/"), identity("ftps://u@nas.:21/a//b"));
        assert_eq!(identity("ftp://u@nas/a"), identity("ftps://u@nas:21/a"));
        assert_ne!(identity("ftp://u@nas/a"), identity("ftp://u@nas//a"));
        assert_ne!(identity("ftp://u@nas/a"), identity("ftp://v@nas/a"));
        assert!(identity("ftp://u@nas/a/b").starts_with(&format!("{}/", identity("ftp://u@nas/a"))));
    }

    #[test]
    fn the_schema_names_exactly_the_options_that_are_read() {
        let schema: serde_json::Value = serde_json::from_str(include_str!("../options.schema.json")).unwrap();
        let mut all: serde_json::Map<_, _> = schema["properties"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, property)| property["x-secret"] != true)
            .map(|(name, property)| (name.clone(), property["default"].clone()))
            .collect();
        assert_eq!(all.len(), 6);
        all.insert("user".into(), "backup".into());
        all.insert("tls".into(), "explicit".into());
        assert!(Config::new("ftp://nas/images", &all.into(), &Secrets::default()).is_ok());
    }
}
