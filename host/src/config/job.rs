//! A job, resolved and validated: what the rest of the program works from.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::plan;

/// Where a secret comes from; the value itself is never in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum SecretRef {
    Env(String),
    File(PathBuf),
    Command(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Attempts in all, at least 1.
    pub attempts: u32,
    pub first_wait: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 5, first_wait: Duration::from_secs(2) }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verify {
    #[default]
    Auto,
    Size,
    Sampled,
    Digest,
    ReadBack,
}

/// One window of the bandwidth timetable; local time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// 0 = Monday … 6 = Sunday.
    pub days: Vec<u8>,
    /// Minutes from midnight, `from` inclusive, `to` exclusive; `from > to` runs over midnight.
    pub from: u16,
    pub to: u16,
    /// Bytes per second; 0 closes the window.
    pub rate: u64,
}

/// Bytes per second: the first matching window's rate, else `rate`; `None` is unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    pub rate: Option<u64>,
    pub windows: Vec<Window>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Unique within the job.
    pub name: String,
    /// Without credentials: they were refused or moved to `secrets`.
    pub url: String,
    /// The plugin's own options.
    pub options: serde_json::Value,
    pub secrets: BTreeMap<String, SecretRef>,
    pub retry: Retry,
    pub priority: Priority,
    /// `None`: the host chooses.
    pub streams: Option<u32>,
    pub bandwidth: Bandwidth,
    pub verify: Verify,
    pub plan: plan::Options,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Unique; letters, digits, `-`, `_`, `.`; names its state directory.
    pub name: String,
    pub source: PathBuf,
    /// One to three.
    pub targets: Vec<Target>,
    pub settle: Duration,
    /// Globs on paths relative to the source: what the user knows and wants left alone.
    #[serde(default)]
    pub ignore: Vec<String>,
}
