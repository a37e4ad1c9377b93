//! What a staging token holds.
//!
//! A line of JSON names the upload; behind it, in checkpoints, four bytes of each part's digest, so that a part that is
//! found on the server later is known to be the one that was sent (10,000 parts fit into 40 KiB). A small object's token names nothing on
//! the server: its bytes go up with the publish. The nonce is stored with the object, and so tells an object that this
//! very token made from any other.

use offsite_plugin_api::{Error, ErrorKind, Result, TargetPath, Token};
use serde::{Deserialize, Serialize};

use super::digest::{Algorithm, Value};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staging {
    v: u32,
    pub path: TargetPath,
    pub nonce: String,
    /// Bytes of the whole file; 0 where the upload was only found.
    pub size: u64,
    /// `None`: small, sent with the publish.
    pub parts: Option<Parts>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    pub upload: String,
    /// Bytes of every part but the last; 0 where the upload was only found.
    pub part: u64,
    pub algorithm: Algorithm,
    /// Of the complete file, where parts' values combine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<Value>,
}

const VERSION: u32 = 1;

impl Staging {
    pub fn small(path: &TargetPath, nonce: String, size: u64) -> Self {
        Self { v: VERSION, path: path.clone(), nonce, size, parts: None }
    }

    pub fn large(path: &TargetPath, nonce: String, size: u64, parts: Parts) -> Self {
        Self { v: VERSION, path: path.clone(), nonce, size, parts: Some(parts) }
    }

    /// An upload that the server lists and nothing else is known of.
    pub fn found(path: &TargetPath, upload: &str) -> Self {
        let parts = Parts { upload: upload.to_owned(), part: 0, algorithm: Algorithm::Md5, whole: None };
        Self::large(path, String::new(), 0, parts)
    }

    pub fn token(&self) -> Token {
        self.token_with(&[])
    }

    /// `marks`: of each part in order, 0 for one that is not staged.
    pub fn token_with(&self, marks: &[u32]) -> Token {
        let mut bytes = serde_json::to_vec(self).expect("names and numbers serialise");
        if !marks.is_empty() {
            bytes.push(b'\n');
            bytes.extend(marks.iter().flat_map(|m| m.to_le_bytes()));
        }
        Token(bytes)
    }

    /// Errors: `StaleToken` for anything this plugin did not make.
    pub fn parse(token: &Token) -> Result<(Self, Vec<u32>)> {
        let bad = |why: &str| {
            Error::new(ErrorKind::StaleToken, "the staging token is not one of ours").with_source(why)
        };
        if token.0.len() > Token::MAX {
            return Err(bad("it is too long"));
        }
        let end = token.0.iter().position(|b| *b == b'\n');
        let (head, marks) = match end {
            Some(end) => (&token.0[..end], &token.0[end + 1..]),
            None => (&token.0[..], &[][..]),
        };
        let staging: Self = serde_json::from_slice(head).map_err(|e| bad(&e.to_string()))?;
        if staging.v != VERSION || staging.path.is_root() || !marks.len().is_multiple_of(4) {
            return Err(bad("it is of another form"));
        }
        let marks = marks.chunks(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        Ok((staging, marks))
    }
}

/// Nothing usable is staged under the token.
pub fn stale(path: &TargetPath, why: &str) -> Error {
    Error::new(ErrorKind::StaleToken, format!("'{}' {why}", path.display()))
        .with_context("hint", "the file is sent again from the start")
}

/// 16 random bytes in hexadecimal. Errors: `Other` where the system has no random source.
pub fn nonce() -> Result<String> {
    use std::io::Read;
    let mut bytes = [0_u8; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|e| Error::io("cannot read random bytes from /dev/urandom", &e))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_ten_thousand_parts_fits_and_comes_back() {
        let path = TargetPath::new("ü".repeat(450)).unwrap();
        let parts = Parts {
            upload: "u".repeat(200),
            part: 1 << 30,
            algorithm: Algorithm::Crc64Nvme,
            whole: Some(Value(vec![255; 8])),
        };
        let staging = Staging::large(&path, nonce().unwrap(), 5 << 40, parts);
        let marks: Vec<u32> = (0..10_000).collect();
        let token = staging.token_with(&marks);
        assert!(token.0.len() <= Token::MAX, "{}", token.0.len());
        assert_eq!(Staging::parse(&token).unwrap(), (staging.clone(), marks));
        assert_eq!(Staging::parse(&staging.token()).unwrap(), (staging, Vec::new()));
    }

    #[test]
    fn what_is_no_token_of_ours_is_stale() {
        let root = Staging::small(&TargetPath::root(), String::new(), 1).token();
        let odd = Token(
            [Staging::found(&TargetPath::new("a").unwrap(), "u").token().0, b"\n123".to_vec()].concat(),
        );
        for token in [Token(vec![]), Token(b"{}".to_vec()), Token(vec![b'x'; Token::MAX + 1]), root, odd] {
            assert_eq!(Staging::parse(&token).unwrap_err().kind(), &ErrorKind::StaleToken);
        }
        assert_ne!(nonce().unwrap(), nonce().unwrap());
    }
}
