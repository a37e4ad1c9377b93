//! What the user wrote (URL and options) to a root path.
//!
//! Accepted: a plain path; `folder:` followed by a path; `folder://` and `file:` URLs. Only the URL forms are
//! percent-decoded, because a plain path may hold a `%` that means itself.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, PathBuf};

use offsite_plugin_api::{Error, ErrorKind, Result};
use serde::Deserialize;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Absolute; may contain symbolic links, which are the user's own choice down to here.
    pub root: PathBuf,
    pub create: bool,
    pub mount_required: bool,
}

/// `options.schema.json` in Rust.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    create: bool,
    mount_required: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { create: true, mount_required: false }
    }
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
        let root = std::path::absolute(PathBuf::from(OsString::from_vec(path_of(url)?)))
            .map_err(|e| invalid(format!("the path in '{url}' cannot be made absolute: {e}")))?;
        if !root.components().any(|c| matches!(c, Component::Normal(_))) {
            return Err(invalid(format!("'{url}' is the root of the file system; give a folder of its own")));
        }
        Ok(Self { root, create: options.create, mount_required: options.mount_required })
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

fn path_of(url: &str) -> Result<Vec<u8>> {
    let scheme_end = url.find(':').filter(|&at| !url[..at].contains('/'));
    let (scheme, rest) = match scheme_end {
        Some(at) if url[..at].eq_ignore_ascii_case("file") => ("file", &url[at + 1..]),
        Some(at) if url[..at].eq_ignore_ascii_case("folder") => ("folder", &url[at + 1..]),
        _ => ("", url),
    };
    let path = match (scheme, rest.strip_prefix("//")) {
        ("", _) | ("folder", None) => rest.as_bytes().to_vec(),
        (_, None) => decode(rest)?,
        (_, Some(after)) => {
            let slash = after.find('/').unwrap_or(after.len());
            if !matches!(&after[..slash], "" | "localhost") {
                return Err(invalid(format!(
                    "'{url}' names the host '{}'; a folder is on this machine: write {scheme}:///path (three slashes)",
                    &after[..slash]
                )));
            }
            decode(&after[slash..])?
        }
    };
    if path.is_empty() || path.contains(&0) {
        return Err(invalid(format!("'{}' holds no usable path", url.escape_debug())));
    }
    Ok(path)
}

fn decode(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| (b as char).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
            _ => return Err(invalid(format!("'{text}' has a '%' without two hexadecimal digits after it"))),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn root(url: &str) -> PathBuf {
        Config::new(url, &json!({})).unwrap().root
    }

    #[test]
    fn every_way_to_write_a_folder_gives_its_path() {
        for (url, path) in [
            ("/mnt/nas", "/mnt/nas"),
            ("/mnt/a%20b", "/mnt/a%20b"),
            ("/mnt/with:colon", "/mnt/with:colon"),
            ("folder:/mnt/a%20b", "/mnt/a%20b"),
            ("folder:///mnt/a%20b", "/mnt/a b"),
            ("FILE:///mnt/a%20b", "/mnt/a b"),
            ("file:/mnt/a%20b", "/mnt/a b"),
            ("file://localhost/mnt/x", "/mnt/x"),
        ] {
            assert_eq!(root(url), PathBuf::from(path), "{url}");
        }
        let here = std::env::current_dir().unwrap();
        assert_eq!(root("backup/images"), here.join("backup/images"));
        assert_eq!(root("folder:backup"), here.join("backup"));
    }

    #[test]
    fn what_cannot_be_a_target_is_refused() {
        for url in [
            "",
            "folder:",
            "/",
            "file:///",
            "file://nas/share",
            "file:///a%2",
            "file:///a%zz",
            "file:///a%00",
        ] {
            let error = Config::new(url, &json!({})).unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::InvalidConfig, "{url}");
        }
        assert!(Config::new("/a", &json!({"creat": true})).is_err(), "a misspelt option must not pass");
    }

    #[test]
    fn the_schema_names_exactly_the_options_that_are_read() {
        let schema: serde_json::Value = serde_json::from_str(include_str!("../options.schema.json")).unwrap();
        let all: serde_json::Map<_, _> = schema["properties"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, property)| (name.clone(), property["default"].clone()))
            .collect();
        assert_eq!(all.len(), 2);
        let config = Config::new("/a", &all.into()).unwrap();
        assert_eq!((config.create, config.mount_required), (true, false));
    }
}
