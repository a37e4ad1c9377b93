//! What the user wrote (URL and options) to a bucket, a folder in it, and the server that holds it.
//!
//! `s3://BUCKET/FOLDER` is Amazon's, or another server's with the option `endpoint`; `s3+https://HOST[:PORT]/BUCKET/FOLDER`
//! (and `s3+http://`, unencrypted) names server and bucket at once. A user before an `@` is the access key's id. Bucket and
//! folder may also come as options, and the bucket option may hold both.

use offsite_plugin_api::{Error, ErrorKind, Result, TargetPath};
use serde::Deserialize;

use super::digest::Algorithm;
use super::endpoint::{self, Service};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `None`: Amazon's, by region.
    pub endpoint: Option<Endpoint>,
    pub bucket: String,
    /// Empty, or ends with a slash.
    pub prefix: String,
    pub region: Option<String>,
    /// As asked for or told by the endpoint; `None`: the server is asked.
    pub service: Option<Service>,
    pub path_style: Option<bool>,
    pub access_key_id: Option<String>,
    pub profile: Option<String>,
    pub ca_file: Option<String>,
    pub checksum: Option<Algorithm>,
    /// Bytes, a multiple of 16 MiB.
    pub part_size: Option<u64>,
    pub storage_class: Option<String>,
    /// Mode and days.
    pub retention: Option<(&'static str, u32)>,
}

/// Another server than Amazon's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub tls: bool,
    /// In lower case; an IPv6 address in brackets.
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }

    fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| invalid(format!("the endpoint '{text}' {why}"));
        let url = url::Url::parse(text).map_err(|e| wrong(&format!("is not a URL: {e}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("must begin with https:// (or http://, unencrypted)"));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("must be no more than https://HOST[:PORT]; bucket and folder go elsewhere"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("must not hold credentials"));
        }
        Self::of(&url).ok_or_else(|| wrong("names no host"))
    }

    fn of(url: &url::Url) -> Option<Self> {
        let tls = matches!(url.scheme(), "https" | "s3+https");
        let host = url.host_str().filter(|h| !h.is_empty())?.to_ascii_lowercase();
        Some(Self { tls, host, port: url.port().unwrap_or(if tls { 443 } else { 80 }) })
    }
}

/// `options.schema.json` in Rust; secrets come apart.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    bucket: Option<String>,
    folder: Option<String>,
    region: Option<String>,
    endpoint: Option<String>,
    service: Option<String>,
    path_style: Option<String>,
    profile: Option<String>,
    ca_file: Option<String>,
    checksum: Option<String>,
    part_size: Option<u64>,
    storage_class: Option<String>,
    retention_mode: Option<String>,
    retention_days: Option<u32>,
}

const MIB: u64 = 1 << 20;
/// Parts are a multiple of this, so that they hold whole blocks of the host's.
pub const PART_UNIT: u64 = 16 * MIB;

impl Config {
    /// What the user must know of a connection that nobody protects. The secret key itself is never sent.
    pub fn unprotected(&self) -> Option<String> {
        let endpoint = self.endpoint.as_ref().filter(|endpoint| !endpoint.tls)?;
        Some(format!(
            "all images, and what signs each request, go to {} without encryption, readable for whoever sits on the way; \
             use https:// where the server offers it",
            endpoint.host
        ))
    }

    /// Errors: `InvalidConfig`.
    pub fn new(url: &str, options: &serde_json::Value) -> Result<Self> {
        let options = match options {
            serde_json::Value::Null => Options::default(),
            given => {
                Options::deserialize(given).map_err(|e| invalid(format!("the options are wrong: {e}")))?
            }
        };
        let (scheme, rest) = url.split_once(':').unwrap_or(("", url));
        let mut place = match scheme.to_ascii_lowercase().as_str() {
            "s3" => plain(url, rest)?,
            "s3+http" | "s3+https" => with_host(url)?,
            _ => return Err(invalid(format!("'{url}' is not an s3: URL"))),
        };
        if let Some(given) = &options.endpoint {
            if place.endpoint.is_some() {
                return Err(invalid(
                    "the server is named twice: in the URL and by the option 'endpoint'".into(),
                ));
            }
            place.endpoint = Some(Endpoint::parse(given)?);
        }
        let (bucket, folder) = join(url, &place, options.bucket.as_deref(), options.folder.as_deref())?;
        let told = match place.endpoint.as_ref() {
            None => Some(endpoint::aws()),
            Some(endpoint) => endpoint::of_host(&endpoint.host),
        };
        let service =
            match options.service.as_deref() {
                None | Some("auto") => told,
                Some(name) => Some(endpoint::named(name).ok_or_else(|| {
                    invalid(format!("the option 'service' is '{name}', which is not known"))
                })?),
            };
        let path_style =
            choice("path_style", options.path_style.as_deref(), &[("on", true), ("off", false)])?;
        let checksum = choice(
            "checksum",
            options.checksum.as_deref(),
            &[("crc64nvme", Algorithm::Crc64Nvme), ("crc32c", Algorithm::Crc32c), ("md5", Algorithm::Md5)],
        )?;
        let mode = match options.retention_mode.as_deref() {
            None | Some("none") => None,
            Some("governance") => Some("GOVERNANCE"),
            Some("compliance") => Some("COMPLIANCE"),
            Some(other) => return Err(invalid(format!("the option 'retention_mode' cannot be '{other}'"))),
        };
        let retention = match (mode, options.retention_days) {
            (Some(mode), Some(days)) if (1..=36_500).contains(&days) => Some((mode, days)),
            (None, None) => None,
            (Some(_), _) => {
                return Err(invalid("the option 'retention_days' is needed with 'retention_mode'".into()));
            }
            (None, Some(_)) => {
                return Err(invalid(
                    "the option 'retention_days' has no effect without 'retention_mode'".into(),
                ));
            }
        };
        Ok(Self {
            endpoint: place.endpoint,
            bucket,
            prefix: if folder.is_empty() { String::new() } else { format!("{folder}/") },
            region: options.region,
            service,
            path_style,
            access_key_id: place.user,
            profile: options.profile,
            ca_file: options.ca_file,
            checksum,
            part_size: options.part_size.map(|mib| (mib * MIB).next_multiple_of(PART_UNIT)),
            storage_class: options.storage_class,
            retention,
        })
    }

    /// Server, bucket and folder, whatever way they were written.
    pub fn identity(&self) -> String {
        let server = match &self.endpoint {
            None => "aws".to_owned(),
            Some(e) if endpoint::of_host(&e.host).is_some_and(|s| s.name == "aws") => "aws".to_owned(),
            Some(e) => format!("{}:{}", e.host, e.port),
        };
        format!("s3://{server}/{}/{}", self.bucket, self.prefix)
    }

    /// Server and bucket as users are told of them.
    pub fn place(&self) -> String {
        match &self.endpoint {
            None => format!("the bucket '{}'", self.bucket),
            Some(endpoint) => format!("the bucket '{}' at {}", self.bucket, endpoint.url()),
        }
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

fn choice<T: Copy>(name: &str, given: Option<&str>, values: &[(&str, T)]) -> Result<Option<T>> {
    let Some(given) = given.filter(|g| *g != "auto") else { return Ok(None) };
    match values.iter().find(|(word, _)| *word == given) {
        Some((_, value)) => Ok(Some(*value)),
        None => Err(invalid(format!("the option '{name}' cannot be '{given}'"))),
    }
}

#[derive(Default)]
struct Place {
    endpoint: Option<Endpoint>,
    user: Option<String>,
    bucket: String,
    folder: String,
}

/// `//[KEY@]BUCKET/FOLDER`, or nothing where the options say it all.
fn plain(url: &str, rest: &str) -> Result<Place> {
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (authority, folder) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, bucket) = match authority.rsplit_once('@') {
        Some((user, bucket)) => (Some(user_of(url, user)?), bucket),
        None => (None, authority),
    };
    if bucket.contains(':') {
        return Err(invalid(format!(
            "'{url}' names a port; for a server of your own write s3+https://HOST:PORT/BUCKET/FOLDER or give the option 'endpoint'"
        )));
    }
    Ok(Place { endpoint: None, user, bucket: decode(url, bucket)?, folder: decode(url, folder)? })
}

/// `s3+https://[KEY@]HOST[:PORT]/BUCKET/FOLDER`.
fn with_host(text: &str) -> Result<Place> {
    let url = url::Url::parse(text).map_err(|e| invalid(format!("'{text}' is not a URL: {e}")))?;
    let endpoint = Endpoint::of(&url).ok_or_else(|| invalid(format!("'{text}' names no host")))?;
    // Not the parsed path: that would resolve '..' and forget how bytes were written.
    let after = text.split_once("://").map_or("", |(_, rest)| rest);
    let path = after.split_once('/').map_or("", |(_, path)| path);
    let (bucket, folder) = path.split_once('/').unwrap_or((path, ""));
    let user = match url.username() {
        "" => None,
        user => Some(user_of(text, user)?),
    };
    Ok(Place { endpoint: Some(endpoint), user, bucket: decode(text, bucket)?, folder: decode(text, folder)? })
}

fn user_of(url: &str, user: &str) -> Result<String> {
    let user = decode(url, user)?;
    if user.is_empty() || user.contains(':') {
        return Err(invalid(
            "the URL's user is not an access key's id; give the secret as a credential".into(),
        ));
    }
    Ok(user)
}

fn decode(url: &str, text: &str) -> Result<String> {
    if text.contains(['?', '#']) {
        return Err(invalid(format!("'{url}' holds a '?' or '#': write them as %3F and %23")));
    }
    percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .map(|t| t.into_owned())
        .map_err(|_| invalid(format!("'{url}' is not UTF-8 once its %XX are decoded")))
}

/// Bucket and folder from URL and options, checked.
fn join(url: &str, place: &Place, bucket: Option<&str>, folder: Option<&str>) -> Result<(String, String)> {
    let (mut name, mut inside) = (place.bucket.clone(), place.folder.clone());
    if let Some(given) = bucket {
        if !name.is_empty() {
            return Err(invalid("the bucket is named twice: in the URL and by the option 'bucket'".into()));
        }
        let given = given.strip_prefix("s3://").unwrap_or(given);
        let (bucket, rest) = given.split_once('/').unwrap_or((given, ""));
        (name, inside) = (bucket.to_owned(), rest.to_owned());
    }
    if let Some(given) = folder {
        if !inside.trim_matches('/').is_empty() {
            return Err(invalid(
                "the folder is named twice: beside the bucket and by the option 'folder'".into(),
            ));
        }
        inside = given.to_owned();
    }
    if name.is_empty() {
        return Err(invalid(format!("'{url}' names no bucket: write s3://BUCKET/FOLDER")));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if !(3..=255).contains(&name.len()) || !name.chars().all(good) || name.contains("..") {
        return Err(invalid(format!(
            "'{}' is not a bucket's name: letters, digits, '-' and '.' only, three at least",
            name.escape_debug()
        )));
    }
    let folder = inside.trim_matches('/').to_owned();
    TargetPath::new(folder.as_bytes()).map_err(|_| {
        invalid(format!("the folder '{}' has an empty, '.' or '..' part", folder.escape_debug()))
    })?;
    if folder.len() > 500 {
        return Err(invalid(
            "the folder's name is longer than 500 bytes: no room is left for names in it".into(),
        ));
    }
    Ok((name, folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config(url: &str, options: Value) -> Config {
        Config::new(url, &options).unwrap()
    }

    #[test]
    fn every_way_to_write_a_target_gives_its_place() {
        for (url, options, identity) in [
            ("s3://images", json!({}), "s3://aws/images/"),
            ("s3://images/a%20b/c/", json!({}), "s3://aws/images/a b/c/"),
            ("s3://AKIA1@images/x", json!({}), "s3://aws/images/x/"),
            ("s3:", json!({"bucket": "images/deep/er"}), "s3://aws/images/deep/er/"),
            ("s3://", json!({"bucket": "images", "folder": "/x/"}), "s3://aws/images/x/"),
            ("s3://images/x", json!({"endpoint": "https://NAS.example"}), "s3://nas.example:443/images/x/"),
            ("s3+http://[::1]:3900/images/x", json!({}), "s3://[::1]:3900/images/x/"),
            ("s3+https://nas.example/images", json!({}), "s3://nas.example:443/images/"),
            ("s3://images", json!({"endpoint": "https://s3.eu-west-1.amazonaws.com"}), "s3://aws/images/"),
        ] {
            assert_eq!(config(url, options).identity(), identity, "{url}");
        }
        let keyed = config("s3+https://GK12@nas.example/images", json!({}));
        assert_eq!(keyed.access_key_id.as_deref(), Some("GK12"));
    }

    #[test]
    fn what_cannot_be_a_target_is_refused() {
        for (url, options) in [
            ("s3://", json!({})),
            ("s3://ab", json!({})),
            ("s3://images:9000/x", json!({})),
            ("s3://images/a/../b", json!({})),
            ("s3://images/a//b", json!({})),
            ("s3://images/a?b", json!({})),
            ("s3://im ages", json!({})),
            ("s3+https://host", json!({})),
            ("s3://images", json!({"bucket": "other"})),
            ("s3://images/x", json!({"folder": "y"})),
            ("s3://images", json!({"endpoint": "ftp://host"})),
            ("s3://images", json!({"endpoint": "https://host/path"})),
            ("s3+https://h/images", json!({"endpoint": "https://host"})),
            ("s3://images", json!({"retention_mode": "governance"})),
            ("s3://images", json!({"retention_days": 3})),
            ("s3://images", json!({"regoin": "x"})),
            ("s3://images", json!({"service": "gcs"})),
        ] {
            let error = Config::new(url, &options).unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::InvalidConfig, "{url} {options}");
        }
    }

    #[test]
    fn the_schema_names_exactly_the_options_that_are_read() {
        let schema: Value = serde_json::from_str(include_str!("../options.schema.json")).unwrap();
        let samples = json!({
            "bucket": "images", "folder": "x", "region": "r", "endpoint": "http://h:1", "service": "minio",
            "path_style": "off", "profile": "p", "ca_file": "/f", "checksum": "md5", "part_size": 17,
            "storage_class": "GLACIER_IR", "retention_mode": "compliance", "retention_days": 7
        });
        let mut named: Vec<_> = schema["properties"].as_object().unwrap().iter().collect();
        named.retain(|(_, property)| property["x-secret"] != true);
        assert_eq!(named.len(), samples.as_object().unwrap().len());
        assert!(named.iter().all(|(name, _)| samples.get(name).is_some()));
        let read = config("s3:", samples);
        assert_eq!(read.service.map(|s| s.name), Some("minio"));
        assert_eq!((read.path_style, read.checksum), (Some(false), Some(Algorithm::Md5)));
        assert_eq!(read.part_size, Some(32 * MIB));
        assert_eq!(read.retention, Some(("COMPLIANCE", 7)));
    }
}
