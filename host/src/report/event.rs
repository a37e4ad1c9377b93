//! What happens, as it happens. A worker writes one JSON object a line to its event descriptor; `--json` prints
//! the same lines. Never holds a secret; URLs are without credentials.

use serde::{Deserialize, Serialize};

use crate::notice::Notice;

/// How one target's run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Done,
    Failed,
    /// Stopped at a checkpoint, by the user or because the supervisor went away.
    Stopped,
}

/// `job` and `target` are added by the supervisor when it prints or records an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The source scan's result.
    Scanned {
        files: u64,
        bytes: u64,
        unsettled: u64,
        unreadable: u64,
    },
    /// The job was stopped before any of its targets was touched.
    JobFailed {
        error: String,
        hint: Option<String>,
    },
    Started {
        pid: u32,
    },
    /// Settled before anything else: open intents, swaps, own debris.
    Settled {
        what: String,
    },
    Planned {
        copy: u64,
        replace: u64,
        delete: u64,
        skip: u64,
        bytes: u64,
    },
    Notice(Notice),
    /// Now being staged.
    Image {
        image: String,
        bytes: u64,
    },
    /// At least every second while bytes move, and once a minute otherwise: totals since the worker began.
    Progress {
        done_bytes: u64,
        total_bytes: u64,
        done_images: u64,
        total_images: u64,
        image: Option<String>,
        rate: u64,
    },
    Published {
        image: String,
        bytes: u64,
        level: String,
    },
    Deleted {
        image: String,
    },
    Skipped {
        image: String,
        code: String,
        reason: String,
    },
    /// Something failed and is tried again after `wait_ms`.
    Retry {
        image: Option<String>,
        error: String,
        attempt: u32,
        of: u32,
        wait_ms: u64,
    },
    /// Work goes on without bytes moving (and closed transfer windows).
    Alive {
        note: String,
    },
    ImageFailed {
        image: String,
        error: String,
        hint: Option<String>,
    },
    Log {
        level: String,
        message: String,
    },
    /// The last event of a worker.
    Finished {
        outcome: Outcome,
        sent_bytes: u64,
        images: u64,
        deleted: u64,
        failed: u64,
        /// Images that were still being written, and what comes after them.
        #[serde(default)]
        left: u64,
        error: Option<String>,
    },
}
