//! What happens, as it happens. A worker writes one JSON object a line to its event descriptor; `--json` prints
//! the same lines. Never holds a secret; URLs are without credentials.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Error;
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
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Box<Error>>,
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
        /// The target held this content already: it was recorded, and nothing sent.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unchanged: bool,
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
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Box<Error>>,
    },
    /// Work goes on without bytes moving (and closed transfer windows).
    Alive {
        note: String,
    },
    ImageFailed {
        image: String,
        error: String,
        hint: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Box<Error>>,
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
        /// Of these, those whose content the target held already.
        #[serde(default)]
        unchanged: u64,
        deleted: u64,
        failed: u64,
        /// Images that were still being written, and what comes after them.
        #[serde(default)]
        left: u64,
        error: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Box<Error>>,
    },
}

/// Characters of a text from a plugin that an event holds at most.
pub const TEXT: usize = 1000;

/// Beside the typed failure (`failure`), events carry the sentence that people read (`error`, `hint`), as they did before
/// there was one.
impl Event {
    pub fn job_failed(error: &Error) -> Self {
        let failure = error.bounded(TEXT);
        Self::JobFailed {
            error: failure.without_hint(),
            hint: failure.hint.clone(),
            failure: Some(Box::new(failure)),
        }
    }

    pub fn image_failed(image: String, error: &Error) -> Self {
        let failure = error.bounded(TEXT);
        Self::ImageFailed {
            image,
            error: failure.without_hint(),
            hint: failure.hint.clone(),
            failure: Some(Box::new(failure)),
        }
    }

    /// `attempt` of `of` failed; the next comes after `wait`.
    pub fn retry(image: Option<String>, error: &Error, attempt: u32, of: u32, wait: Duration) -> Self {
        let failure = error.bounded(TEXT);
        Self::Retry {
            image,
            error: failure.to_string(),
            attempt,
            of,
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            failure: Some(Box::new(failure)),
        }
    }
}
