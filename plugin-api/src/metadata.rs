//! What a plugin says about itself; readable from the file without loading it.

use serde::{Deserialize, Serialize};

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
