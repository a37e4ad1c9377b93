//! Paths on a target: bytes, relative to the target's root, `/` between components.

use std::fmt;
use std::sync::Arc;

use crate::{Error, ErrorKind, Result};

/// A relative path of bytes. Never absolute, never with an empty component, `.`, `..`, NUL, CR or LF: whatever a
/// server lists or a header names is checked here, once. The empty path is the target's root. Clones share the bytes: a
/// million images are named in several lists at once.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetPath(Arc<[u8]>);

impl TargetPath {
    /// Errors: [`ErrorKind::NameRefused`] for anything that could leave the root or split a protocol line.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self> {
        let path = Self(bytes.into().into());
        let refuse = |why: &str| Err(Error::new(ErrorKind::NameRefused, format!("the path {path:?} {why}")));
        if path.0.is_empty() {
            return Ok(path);
        }
        if path.0.iter().any(|b| matches!(b, 0 | b'\r' | b'\n')) {
            return refuse("contains a NUL, CR or LF byte");
        }
        for part in path.0.split(|&b| b == b'/') {
            match part {
                b"" => return refuse("is absolute or has an empty component"),
                b"." | b".." => return refuse("contains '.' or '..'"),
                _ => {}
            }
        }
        Ok(path)
    }

    pub fn root() -> Self {
        Self::default()
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path with anything that is not UTF-8 replaced: for people, never for names.
    pub fn display(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|&b| b == b'/').next().unwrap_or_default()
    }

    /// The directory that holds this entry; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|&b| b == b'/').unwrap_or(0);
        Some(Self(self.0[..end].into()))
    }

    /// This path with one more component (or several, `/` between them).
    pub fn join(&self, name: impl AsRef<[u8]>) -> Result<Self> {
        if self.is_root() {
            return Self::new(name.as_ref());
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.as_ref().len());
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(name.as_ref());
        Self::new(bytes)
    }

    pub fn starts_with(&self, dir: &TargetPath) -> bool {
        dir.is_root()
            || self.0 == dir.0
            || (self.0.starts_with(&dir.0) && self.0.get(dir.0.len()) == Some(&b'/'))
    }

    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|c| !c.is_empty())
    }
}

impl fmt::Debug for TargetPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.0.escape_ascii())
    }
}

impl serde::Serialize for TargetPath {
    /// Text where the bytes are UTF-8 (human-readable formats need that), else the bytes.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return serializer.serialize_bytes(&self.0);
        }
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serde::Serialize::serialize(&*self.0, serializer),
        }
    }
}

impl<'de> serde::Deserialize<'de> for TargetPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> serde::de::Visitor<'de> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a relative path")
            }
            fn visit_str<E>(self, v: &str) -> Result<Vec<u8>, E> {
                Ok(v.as_bytes().to_vec())
            }
            fn visit_bytes<E>(self, v: &[u8]) -> Result<Vec<u8>, E> {
                Ok(v.to_vec())
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
                let mut bytes = Vec::new();
                while let Some(b) = seq.next_element()? {
                    bytes.push(b);
                }
                Ok(bytes)
            }
        }
        let bytes = if deserializer.is_human_readable() {
            deserializer.deserialize_any(Bytes)?
        } else {
            deserializer.deserialize_bytes(Bytes)?
        };
        Self::new(bytes).map_err(serde::de::Error::custom)
    }
}
