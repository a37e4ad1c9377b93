//! A file's name as the formats look at it: bytes, cut into directory, stem and extension once.

use offsite_plugin_api::TargetPath;
use regex::bytes::{Captures, Regex};

/// Directory (with its trailing `/`, empty at the root) and last component.
#[derive(Clone, Copy)]
pub(super) struct Name<'a> {
    pub dir: &'a [u8],
    pub file: &'a [u8],
}

impl<'a> Name<'a> {
    pub fn of(path: &'a TargetPath) -> Self {
        let bytes = path.as_bytes();
        let cut = bytes.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
        Self { dir: &bytes[..cut], file: &bytes[cut..] }
    }

    /// What follows the last `.`; empty where there is none.
    pub fn extension(&self) -> &'a [u8] {
        self.file.iter().rposition(|&b| b == b'.').map_or(&[], |at| &self.file[at + 1..])
    }

    /// The name without `.` and extension.
    pub fn stem(&self) -> &'a [u8] {
        self.file.iter().rposition(|&b| b == b'.').map_or(self.file, |at| &self.file[..at])
    }

    pub fn has_extension(&self, any: &[&str]) -> bool {
        let extension = self.extension();
        any.iter().any(|e| extension.eq_ignore_ascii_case(e.as_bytes()))
    }

    /// A set's name: the directory, then these pieces.
    pub fn set(&self, pieces: &[&[u8]]) -> String {
        let mut bytes = Vec::with_capacity(self.dir.len() + pieces.iter().map(|p| p.len()).sum::<usize>());
        bytes.extend_from_slice(self.dir);
        for piece in pieces {
            bytes.extend_from_slice(piece);
        }
        text(&bytes)
    }
}

/// Bytes as text, one to one: UTF-8 without a backslash stays as it is, anything else is escaped as a whole.
pub(super) fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !bytes.contains(&b'\\') => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// A group of digits. `None` when absent or beyond 64 bits.
pub(super) fn number(captures: &Captures<'_>, group: usize) -> Option<u64> {
    std::str::from_utf8(captures.get(group)?.as_bytes()).ok()?.parse().ok()
}

/// A group's bytes; empty when it took no part.
pub(super) fn group<'a>(captures: &Captures<'a>, group: usize) -> &'a [u8] {
    captures.get(group).map_or(&[], |m| m.as_bytes())
}

/// A pattern over raw bytes: `.` is any byte, digits and letters are ASCII.
pub(super) fn pattern(text: &str) -> Regex {
    Regex::new(&format!("(?s-u){text}")).expect("a pattern written here compiles")
}
