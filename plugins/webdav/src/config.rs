//! What the user wrote (URL, options, secrets) to an address, a login and trust.
//!
//! `webdav:` and `webdavs:` are other names of `http:` and `https:`. The path of the URL is the target's root. A password in
//! the URL is refused: URLs are shown and logged.

use offsite_plugin_api::{Error, ErrorKind, Result, Secrets, Zeroizing};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use url::Url;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Chunked {
    #[default]
    Auto,
    Always,
    Never,
}

/// No `Debug`: it holds the password.
#[derive(Clone)]
pub struct Config {
    /// `http` or `https`, no user, path with a slash at its end.
    pub root: Url,
    pub user: Option<String>,
    pub password: Zeroizing<String>,
    pub create: bool,
    pub ca_file: Option<String>,
    pub fingerprint: Option<[u8; 32]>,
    pub chunked: Chunked,
    /// Bytes.
    pub chunk_size: u64,
    pub timeout: std::time::Duration,
}

/// `options.schema.json` in Rust, without its secrets.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    user: Option<String>,
    create: bool,
    ca_file: Option<String>,
    certificate_sha256: Option<String>,
    chunked: Chunked,
    chunk_size_mib: u64,
    timeout: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            user: None,
            create: true,
            ca_file: None,
            certificate_sha256: None,
            chunked: Chunked::Auto,
            chunk_size_mib: 16,
            timeout: 60,
        }
    }
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
        let mut root = parse(url)?;
        if root.password().is_some() {
            return Err(invalid("the URL holds a password, and URLs are shown and logged")
                .with_context("hint", "give it as the secret 'password'"));
        }
        let in_url = percent_decode_str(root.username())
            .decode_utf8()
            .map_err(|_| invalid("the user in the URL is not UTF-8"))?
            .into_owned();
        let _ = root.set_username("");
        let user = match (in_url.is_empty(), options.user.filter(|u| !u.is_empty())) {
            (true, user) => user,
            (false, Some(other)) if other != in_url => {
                return Err(invalid("the URL and the option 'user' name different users; give one"));
            }
            (false, _) => Some(in_url),
        };
        // RFC 7617 §2: the colon ends the name.
        if user.as_ref().is_some_and(|u| u.contains(':') || u.chars().any(char::is_control)) {
            return Err(invalid(
                "the user name holds a colon or a control character, which no login can carry",
            ));
        }
        let password = secrets.get("password").unwrap_or_default();
        if user.is_none() && !password.is_empty() {
            return Err(invalid("a password without a user")
                .with_context("hint", "give the option 'user', or https://name@host/… as the URL"));
        }
        let range = |name: &str, value: u64, allowed: std::ops::RangeInclusive<u64>| {
            if allowed.contains(&value) {
                return Ok(value);
            }
            Err(invalid(format!("'{name}' is {value}; it may be {} to {}", allowed.start(), allowed.end())))
        };
        Ok(Self {
            root,
            user,
            password: Zeroizing::new(password.to_owned()),
            create: options.create,
            ca_file: options.ca_file,
            fingerprint: options.certificate_sha256.as_deref().map(fingerprint).transpose()?,
            chunked: options.chunked,
            chunk_size: range("chunk_size_mib", options.chunk_size_mib, 5..=5000)? << 20,
            timeout: std::time::Duration::from_secs(range("timeout", options.timeout, 5..=600)?),
        })
    }

    /// What the user must know of a login that nobody protects.
    pub fn unprotected(&self) -> Option<String> {
        if self.root.scheme() != "http" || self.password.is_empty() {
            return None;
        }
        Some(format!(
            "the password of '{}' and all images go to {} without encryption, readable for whoever sits on the way; use \
             https:// where the server offers it",
            self.user.as_deref().unwrap_or_default(),
            self.root.host_str().unwrap_or_default()
        ))
    }

    /// User, host, port and path, however the URL wrote them.
    pub fn identity(&self) -> String {
        let user = self.user.as_deref().unwrap_or_default();
        let host = self.root.host_str().unwrap_or_default();
        let port = self.root.port_or_known_default().unwrap_or_default();
        let segments = super::names::segments(self.root.path());
        let path: String =
            segments.iter().map(|s| format!("/{}", String::from_utf8_lossy(s).escape_default())).collect();
        format!("webdav:{user}@{host}:{port}{path}")
    }
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

fn parse(url: &str) -> Result<Url> {
    let wrong = |why: String| {
        invalid(format!("the URL is not one of a WebDAV server: {why}"))
            .with_context("hint", "write https://host/folder, or https://host:port/folder")
    };
    let (scheme, rest) = url.split_once(':').ok_or_else(|| wrong("it has no scheme".into()))?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" | "webdav" => "http",
        "https" | "webdavs" => "https",
        other => return Err(wrong(format!("the scheme is '{}'", other.escape_debug()))),
    };
    if !rest.starts_with("//") || rest.starts_with("///") {
        return Err(wrong("'//' and the host must follow the scheme".into()));
    }
    let mut parsed = Url::parse(&format!("{scheme}:{rest}")).map_err(|e| wrong(e.to_string()))?;
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(wrong("it holds '?' or '#'; in a folder's name write %3F or %23".into()));
    }
    if super::names::segments(parsed.path()).iter().any(|s| s.contains(&b'/') || s.contains(&0)) {
        return Err(wrong("its path holds an encoded slash or NUL".into()));
    }
    if !parsed.path().ends_with('/') {
        let path = format!("{}/", parsed.path());
        parsed.set_path(&path);
    }
    Ok(parsed)
}

fn fingerprint(text: &str) -> Result<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !matches!(c, ':' | ' '))
        .map(|c| c.to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()
        .unwrap_or_default();
    let bytes: Vec<u8> = digits.chunks(2).filter(|p| p.len() == 2).map(|p| p[0] * 16 + p[1]).collect();
    match (digits.len(), bytes.try_into()) {
        (64, Ok(bytes)) => Ok(bytes),
        _ => Err(invalid("'certificate_sha256' is not 64 hexadecimal digits")
            .with_context("hint", "openssl x509 -noout -fingerprint -sha256 -in server.pem")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(url: &str) -> Result<Config> {
        Config::new(url, &json!({}), &Secrets::default())
    }

    fn secrets(password: &str) -> Secrets {
        Secrets(vec![("password".to_owned(), Zeroizing::new(password.to_owned()))])
    }

    #[test]
    fn every_way_to_write_a_server_gives_its_address() {
        for (url, root) in [
            ("http://nas/dav", "http://nas/dav/"),
            ("webdav://nas/dav/", "http://nas/dav/"),
            ("webdavs://nas", "https://nas/"),
            ("HTTPS://NAS:443/a b/ü", "https://nas/a%20b/%C3%BC/"),
            ("https://[2001:db8::1]:8443/x", "https://[2001:db8::1]:8443/x/"),
            ("http://192.0.2.7:8080/x", "http://192.0.2.7:8080/x/"),
        ] {
            assert_eq!(config(url).unwrap().root.as_str(), root, "{url}");
        }
        let aliases = ["https://me@nas/a%20b/", "webdavs://me@NAS:443/a b", "https://me@nas//a%20b"];
        for alias in aliases {
            assert_eq!(config(alias).unwrap().identity(), config(aliases[0]).unwrap().identity());
        }
    }

    #[test]
    fn the_user_comes_from_the_url_or_the_option_and_the_password_never_from_the_url() {
        let both = Config::new("https://J%C3%BCrgen@nas/", &json!({}), &secrets("x")).unwrap();
        assert_eq!((both.user.as_deref(), both.password.as_str()), (Some("Jürgen"), "x"));
        let option = Config::new("https://nas/", &json!({"user": "me"}), &secrets("x")).unwrap();
        assert_eq!(option.user.as_deref(), Some("me"));
        assert!(Config::new("https://you@nas/", &json!({"user": "me"}), &secrets("x")).is_err());
        let error = config("https://me:hunter2@nas/").err().unwrap();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(Config::new("https://nas/", &json!({}), &secrets("x")).is_err(), "a password without a user");
    }

    #[test]
    fn what_cannot_be_a_target_is_refused() {
        for url in [
            "",
            "nas/dav",
            "ftp://nas/",
            "https:nas",
            "https:///x",
            "http://nas/a?b",
            "http://nas/a#b",
            "http://nas/a%2Fb",
        ] {
            let error = config(url).err().unwrap_or_else(|| panic!("{url} passes"));
            assert_eq!(error.kind(), &ErrorKind::InvalidConfig, "{url}");
        }
        for options in [
            json!({"usr": "me"}),
            json!({"chunked": "maybe"}),
            json!({"chunk_size_mib": 1}),
            json!({"timeout": 0}),
            json!({"certificate_sha256": "ab"}),
        ] {
            assert!(Config::new("https://nas/", &options, &Secrets::default()).is_err(), "{options}");
        }
    }

    #[test]
    fn the_schema_names_exactly_the_options_that_are_read() {
        let schema: serde_json::Value = serde_json::from_str(include_str!("../options.schema.json")).unwrap();
        let properties = schema["properties"].as_object().unwrap();
        let plain: serde_json::Map<_, _> = properties
            .iter()
            .filter(|(_, p)| p["x-secret"] != true)
            .map(|(name, p)| (name.clone(), p["default"].clone()))
            .collect();
        assert_eq!((properties.len(), plain.len()), (8, 7));
        let config = Config::new("https://nas/", &plain.into(), &Secrets::default()).unwrap();
        assert_eq!((config.create, config.chunk_size, config.timeout.as_secs()), (true, 16 << 20, 60));
    }
}
