//! What an open target can do. Crosses the boundary as JSON, so that a field can be added without a new ABI.

use serde::{Deserialize, Serialize};

/// How far an interrupted staging can be taken up again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resume {
    /// Any ranges.
    Ranges,
    /// From one offset on.
    Offset,
    /// Whole parts.
    Parts,
    #[default]
    #[serde(other)]
    None,
}

/// Whether a name that exists can be replaced in one act that readers see as old or new, never neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Replace {
    Atomic,
    /// The host swaps names under its journal; readers can meet a gap.
    #[default]
    #[serde(other)]
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalisation {
    Nfc,
    Nfd,
    /// Names come back byte for byte.
    #[default]
    #[serde(other)]
    Preserved,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NameRules {
    pub case_sensitive: bool,
    pub normalisation: Normalisation,
    /// Longest component, bytes.
    pub longest_name: u32,
    /// Longest path, bytes.
    pub longest_path: u32,
    /// Characters no name may contain.
    pub refused: String,
    /// Names refused whole, case ignored (`CON`, `NUL`, …).
    pub refused_names: Vec<String>,
    /// Characters no name may end with: servers that follow Windows cut them off.
    pub refused_endings: String,
    /// Whether names must be UTF-8.
    pub utf8_only: bool,
}

impl Default for NameRules {
    fn default() -> Self {
        Self {
            case_sensitive: true,
            normalisation: Normalisation::Preserved,
            longest_name: 255,
            longest_path: 4095,
            refused: String::new(),
            refused_names: Vec::new(),
            refused_endings: String::new(),
            utf8_only: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartSizes {
    /// Bytes.
    pub smallest: u64,
    /// Bytes.
    pub largest: u64,
    pub most_parts: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Checkpoints name bytes that a power cut at the server cannot lose.
    pub durable_checkpoints: bool,
    pub resume: Resume,
    pub replace: Replace,
    /// `publish` and `delete` honour [`crate::Expect`] in one act with the change, not by looking first.
    pub conditional_publish: bool,
    /// `read_staged` works: sampled and read-back verification are possible.
    pub staged_readable: bool,
    pub names: NameRules,
    pub part_sizes: Option<PartSizes>,
    /// Nanoseconds; `None` where a modification time cannot be set.
    pub mtime_precision_ns: Option<u64>,
    /// Algorithms `digest` can compute at the server with a single read of its own.
    pub digests: Vec<String>,
    /// Algorithms the server checks for each part or file while it receives it.
    pub checked_digests: Vec<String>,
    pub copy: bool,
    pub rename: bool,
    pub retention: bool,
    /// Ranges of one file that may be in flight at once; 1 for a strictly sequential protocol.
    pub parallel_ranges: u32,
    /// Streams that suit this target where the user names no number, for example more for a server far away; `None`: the
    /// host's own number.
    pub streams: Option<u32>,
    /// Largest file, bytes; `None` for no known limit.
    pub largest_file: Option<u64>,
    /// Files up to this many bytes are sent only by `publish`: staging them leaves nothing on the server.
    pub small_at_publish: u64,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            durable_checkpoints: false,
            resume: Resume::None,
            replace: Replace::None,
            conditional_publish: false,
            staged_readable: false,
            names: NameRules::default(),
            part_sizes: None,
            mtime_precision_ns: None,
            digests: Vec::new(),
            checked_digests: Vec::new(),
            copy: false,
            rename: false,
            retention: false,
            parallel_ranges: 1,
            streams: None,
            largest_file: None,
            small_at_publish: 0,
        }
    }
}

/// Room on the target, bytes; `None` where the server does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Space {
    pub total: Option<u64>,
    pub free: Option<u64>,
}
