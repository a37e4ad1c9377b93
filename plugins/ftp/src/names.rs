//! Paths of the contract (bytes) to what stands in a command.
//!
//! The library takes text; every byte is given to it as the character of the same number (Latin-1), so that names of any
//! encoding arrive as they are.

use std::io;

use offsite_plugin_api::{Error, ErrorKind, Result, TargetPath};
use suppaftp::Encoding;

/// Bytes as characters of the same number.
#[derive(Debug)]
pub struct Bytes;

impl Encoding for Bytes {
    fn decode(&self, bytes: &[u8]) -> String {
        text(bytes)
    }

    fn encode(&self, text: &str) -> io::Result<Vec<u8>> {
        bytes(text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a character beyond a byte"))
    }
}

pub fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

pub fn bytes(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

/// Errors: `NameRefused` for what is not UTF-8, before anything is sent.
pub fn carried(path: &TargetPath) -> Result<()> {
    match std::str::from_utf8(path.as_bytes()) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::new(ErrorKind::NameRefused, format!("'{}' is not UTF-8", path.display()))
            .with_context("hint", "rename it, or leave it out with a filter")),
    }
}

/// `path` below `root`, as text for a command; `root` is empty or ends without a slash (and is `/` for the server's root).
pub fn below(root: &str, path: &TargetPath) -> String {
    let path = text(path.as_bytes());
    match (root, path.is_empty()) {
        ("", true) => ".".to_owned(),
        // A dash would be an option, a space or a tilde could be eaten.
        ("", false) if path.starts_with(['-', ' ', '~']) => format!("./{path}"),
        ("", false) => path,
        ("/", _) => format!("/{path}"),
        (root, true) => root.to_owned(),
        (root, false) => format!("{root}/{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        let all: Vec<u8> = (1..=255).collect();
        assert_eq!(bytes(&text(&all)).unwrap(), all);
        assert_eq!(Bytes.encode(&Bytes.decode(&all)).unwrap(), all);
        assert!(Bytes.encode("€").is_err());
    }

    #[test]
    fn paths_stand_below_their_root() {
        let path = |text: &str| TargetPath::new(text.as_bytes()).unwrap();
        assert_eq!(below("/srv", &path("a b/c")), "/srv/a b/c");
        assert_eq!(below("/", &path("a")), "/a");
        assert_eq!(below("/", &TargetPath::root()), "/");
        assert_eq!(below("", &TargetPath::root()), ".");
        assert_eq!(below("", &path("-rf")), "./-rf");
        assert_eq!(bytes(&below("", &path("é"))).unwrap(), "é".as_bytes());
    }
}
