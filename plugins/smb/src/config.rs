//! What the user wrote (URL and options) to server, share, folder and account.
//!
//! `smb://[[domain;]user@]host[:port]/share[/folder…]`, percent-encoded. A domain may also be written in the options, as
//! `DOMAIN\user`, or as `user@domain`.

use offsite_plugin_api::{Error, ErrorKind, Result};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

pub const PORT: u16 = 445;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name or address, an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
    pub share: String,
    /// Components below the share; empty for the share itself.
    pub folder: Vec<String>,
    pub account: Account,
    pub encrypted: bool,
}

/// Who logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    User {
        name: String,
        domain: Option<String>,
    },
    /// Nobody in particular, because it was asked for: nothing that is sent is signed.
    Guest,
}

impl Account {
    /// For people.
    pub fn shown(&self) -> &str {
        match self {
            Self::User { name, .. } => name,
            Self::Guest => "a guest",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encryption {
    #[default]
    Auto,
    Required,
}

/// `options.schema.json` in Rust, without the secrets.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    user: Option<String>,
    domain: Option<String>,
    guest: bool,
    encryption: Encryption,
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

impl Config {
    /// Errors: `InvalidConfig`.
    pub fn new(url: &str, options: &serde_json::Value) -> Result<Self> {
        let options = match options {
            serde_json::Value::Null => Options::default(),
            given => {
                Options::deserialize(given).map_err(|e| invalid(format!("the options are wrong: {e}")))?
            }
        };
        let example = "write smb://user@server/share/folder";
        let rest = url
            .split_once("://")
            .filter(|(scheme, _)| matches!(scheme.to_ascii_lowercase().as_str(), "smb" | "cifs"))
            .map(|(_, rest)| rest)
            .ok_or_else(|| invalid(format!("'{url}' is no URL of a share")).with_context("hint", example))?;
        if rest.contains(['?', '#']) {
            return Err(invalid(format!("'{url}' has a '?' or '#'"))
                .with_context("hint", "write %3F or %23 where a name holds one"));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (account, place) = match authority.rsplit_once('@') {
            Some((account, place)) => (Some(account), place),
            None => (None, authority),
        };
        let (host, port) = place_of(place, url)?;
        let mut parts = path.split('/').filter(|p| !p.is_empty()).map(|part| component(part, url));
        let share = parts
            .next()
            .transpose()?
            .ok_or_else(|| invalid(format!("'{url}' names no share")).with_context("hint", example))?;
        let folder = parts.collect::<Result<Vec<_>>>()?;
        let (mut domain, mut user) = (options.domain, options.user);
        if let Some(account) = account {
            let (in_domain, in_user) = match account.split_once(';') {
                Some((domain, user)) => (Some(decode(domain, url)?), decode(user, url)?),
                None => (None, decode(account, url)?),
            };
            if user.as_ref().is_some_and(|u| *u != in_user) || in_domain.is_some() && domain.is_some() {
                return Err(invalid("the account stands in the URL and, differently, in the options"));
            }
            user = Some(in_user);
            domain = domain.or(in_domain);
        }
        if let Some((in_domain, name)) = user.as_deref().and_then(|u| u.split_once('\\')) {
            if domain.is_some() {
                return Err(invalid("the domain is given twice"));
            }
            (domain, user) = (Some(in_domain.to_owned()), Some(name.to_owned()));
        }
        let (user, domain) = (user.filter(|u| !u.is_empty()), domain.filter(|d| !d.is_empty()));
        let account = match (user, options.guest) {
            (Some(name), false) => Account::User { name, domain },
            (None, true) => Account::Guest,
            (Some(_), true) => {
                return Err(invalid("guest = true and a user are given")
                    .with_context("hint", "leave one of them out"));
            }
            (None, false) => {
                return Err(invalid("no user is given").with_context(
                    "hint",
                    "write smb://user@server/share, or set the option user; guest = true goes without",
                ));
            }
        };
        Ok(Self {
            host,
            port,
            share,
            folder,
            account,
            encrypted: matches!(options.encryption, Encryption::Required),
        })
    }

    /// Two targets with the same identity are one place: servers, shares and folders ignore case.
    pub fn identity(&self) -> String {
        let folder: String = self.folder.iter().map(|part| format!("/{}", part.to_lowercase())).collect();
        let host = self.host.trim_end_matches('.').to_lowercase();
        format!("smb://{host}:{}/{}{folder}", self.port, self.share.to_lowercase())
    }

    /// The server as it stands in a UNC path, where a colon cannot.
    pub fn unc_host(&self) -> String {
        if self.host.contains(':') {
            return format!("{}.ipv6-literal.net", self.host.replace(':', "-").replace('%', "s"));
        }
        self.host.clone()
    }

    /// For people.
    pub fn shown(&self) -> String {
        format!(r"\\{}\{}", self.host, self.share)
    }
}

fn place_of(place: &str, url: &str) -> Result<(String, u16)> {
    let port_of = |text: &str| {
        text.parse()
            .ok()
            .filter(|p| *p != 0)
            .ok_or_else(|| invalid(format!("'{text}' in '{url}' is no port")))
    };
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, after) =
                rest.split_once(']').ok_or_else(|| invalid(format!("'{url}' has '[' without ']'")))?;
            host.parse::<std::net::Ipv6Addr>()
                .map_err(|_| invalid(format!("'{host}' in '{url}' is no IPv6 address")))?;
            match after.strip_prefix(':') {
                Some(port) => (host.to_owned(), port_of(port)?),
                None if after.is_empty() => (host.to_owned(), PORT),
                None => return Err(invalid(format!("'{after}' after the address in '{url}' is no port"))),
            }
        }
        None => match place.split_once(':') {
            Some((host, port)) => (decode(host, url)?, port_of(port)?),
            None => (decode(place, url)?, PORT),
        },
    };
    if host.is_empty() || host.contains(['/', '\\', '@', ' ']) {
        return Err(
            invalid(format!("'{url}' names no server")).with_context("hint", "write smb://user@server/share")
        );
    }
    Ok((host, port))
}

fn decode(text: &str, url: &str) -> Result<String> {
    let bytes = text.as_bytes();
    let broken = bytes.iter().enumerate().any(|(at, byte)| {
        let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_hexdigit);
        *byte == b'%' && !(digit(at + 1) && digit(at + 2))
    });
    if broken {
        return Err(invalid(format!("'{url}' has a '%' without two hexadecimal digits after it")));
    }
    let text =
        percent_decode_str(text).decode_utf8().map_err(|_| invalid(format!("'{url}' is not UTF-8")))?;
    if text.chars().any(char::is_control) {
        return Err(invalid("the URL holds a control character"));
    }
    Ok(text.into_owned())
}

fn component(text: &str, url: &str) -> Result<String> {
    let part = decode(text, url)?;
    if matches!(part.as_str(), "." | "..") || part.contains(['/', '\\']) {
        return Err(invalid(format!("'{url}' has '.', '..' or a slash within a name")));
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(url: &str) -> Config {
        Config::new(url, &json!({})).unwrap()
    }

    #[test]
    fn every_way_to_write_an_account_and_a_place() {
        let plain = config("smb://backup@nas/images/daily/a%20b");
        assert_eq!((plain.host.as_str(), plain.port, plain.share.as_str()), ("nas", 445, "images"));
        assert_eq!(plain.folder, ["daily", "a b"]);
        let user = |name: &str, domain: Option<&str>| Account::User {
            name: name.to_owned(),
            domain: domain.map(str::to_owned),
        };
        assert_eq!(plain.account, user("backup", None));
        let domain = config("cifs://OFFICE;backup@[::1]:1445/images/");
        assert_eq!((domain.host.as_str(), domain.port), ("::1", 1445));
        assert_eq!(domain.account, user("backup", Some("OFFICE")));
        assert_eq!(domain.unc_host(), "--1.ipv6-literal.net");
        let options = Config::new("smb://nas/images", &json!({"user": "OFFICE\\backup"})).unwrap();
        assert_eq!(options.account, user("backup", Some("OFFICE")));
        let guest = Config::new("smb://nas/images", &json!({"guest": true})).unwrap();
        assert_eq!(guest.account, Account::Guest);
    }

    #[test]
    fn what_names_no_share_or_account_is_refused() {
        for url in [
            "smb://nas/images",
            "smb://backup@nas",
            "smb://backup@/images",
            "smb://backup@nas:0/images",
            "smb://backup@nas:x/images",
            "smb://backup@[::1/images",
            "smb://backup@[zz]/images",
            "smb://backup@nas/images/../etc",
            "smb://backup@nas/images/a%2fb",
            "smb://backup@nas/images/a%5Cb",
            "smb://backup@nas/images/a%0ab",
            "smb://backup@nas/images/a%2",
            "smb://backup@nas/images?x=1",
            "ftp://backup@nas/images",
        ] {
            assert_eq!(Config::new(url, &json!({})).unwrap_err().kind(), &ErrorKind::InvalidConfig, "{url}");
        }
        assert!(Config::new("smb://a@nas/x", &json!({"user": "b"})).is_err());
        assert!(Config::new("smb://a@nas/x", &json!({"usr": "b"})).is_err());
        assert!(Config::new("smb://a@nas/x", &json!({"guest": true})).is_err());
    }

    #[test]
    fn aliases_have_one_identity() {
        assert_eq!(
            config("smb://backup@NAS/Images/Daily").identity(),
            config("cifs://other@nas:445/images//daily/").identity()
        );
        assert_ne!(config("smb://b@nas/images").identity(), config("smb://b@nas:446/images").identity());
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
        assert_eq!(all.len(), 4);
        all.insert("user".into(), "backup".into());
        assert!(Config::new("smb://nas/images", &all.into()).is_ok());
    }
}
