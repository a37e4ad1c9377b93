//! What a plugin says about itself; readable from the file without loading it.

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Crosses as JSON in the link section `.offsite.meta` (see `export.rs`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Short and unique: `folder`, `sftp`.
    pub id: String,
    pub version: String,
    pub vendor: String,
    pub licence: String,
    #[serde(default)]
    pub description: String,
    pub schemes: Vec<Scheme>,
    /// ABI versions the library exports, newest first: `[1]`.
    pub abi: Vec<u32>,
    /// Target triple it was built for.
    pub triple: String,
    /// JSON Schema (an object schema) of the options. Extra keywords: `x-secret: true` marks a secret (never an
    /// option in a file in clear), `x-order: N` the order in which a wizard asks.
    pub options: serde_json::Value,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheme {
    /// Lower case, without the colon.
    pub name: String,
    #[serde(default)]
    pub default_port: Option<u16>,
}

impl Metadata {
    /// Whether it is fit to be shown and used: short plain names, text without control characters, an options schema
    /// that is a JSON object. Errors: `Corrupt`, naming the field.
    pub fn validate(&self) -> Result<()> {
        let refuse = |field: &str, why: &str| {
            Err(Error::new(ErrorKind::Corrupt, format!("the plugin's metadata are refused: '{field}' {why}")))
        };
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=64).contains(&self.id.len()) || !self.id.bytes().all(plain) {
            return refuse("id", "must be 1 to 64 of a-z, 0-9 and '-'");
        }
        let texts = [
            ("version", &self.version, 64),
            ("vendor", &self.vendor, 200),
            ("licence", &self.licence, 200),
            ("description", &self.description, 2000),
            ("triple", &self.triple, 100),
        ];
        for (field, text, longest) in texts {
            if text.len() > longest || text.chars().any(char::is_control) {
                return refuse(field, &format!("must be at most {longest} bytes without control characters"));
            }
        }
        if self.schemes.is_empty() || self.schemes.len() > 32 {
            return refuse("schemes", "must be 1 to 32 URL schemes");
        }
        // RFC 3986 §3.1, lower case.
        let scheme_byte = |b: u8| plain(b) || b == b'+' || b == b'.';
        if self.schemes.iter().any(|s| {
            !s.name.starts_with(|c: char| c.is_ascii_lowercase())
                || s.name.len() > 32
                || !s.name.bytes().all(scheme_byte)
        }) {
            return refuse("schemes", "must be lower-case URL schemes without the colon");
        }
        if self.abi.is_empty() || self.abi.len() > 32 {
            return refuse("abi", "must be 1 to 32 ABI versions");
        }
        if !self.options.is_object() {
            return refuse("options", "must be a JSON Schema object");
        }
        Ok(())
    }
}
