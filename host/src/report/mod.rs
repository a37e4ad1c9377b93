//! One [`Event`] type; human output and JSON come from it. The only module that prints, with `main`.
//!
//! Nothing here ever gets a secret: events, errors and results hold none, and URLs came without passwords.

mod amount;
mod behind;
mod chains;
mod check;
mod errors;
mod event;
pub mod exit;
mod human;
mod json;
mod plan;
mod plugins;
mod print;
mod status;
mod table;

pub use amount::{ago, bytes, duration, rate};
pub use behind::{Behind, Rest};
pub use chains::{ChainsOf, chains_json, chains_text};
pub use check::{CheckOf, check_json, check_text};
pub use errors::{error, problems};
pub use event::{Event, Outcome, TEXT};
pub use human::Human;
pub use json::{Json, json_error};
pub use plan::{PlanOf, plan_json, plan_text};
pub use plugins::{plugin_json, plugin_text, plugins_json, plugins_text};
pub use print::{line, note};
pub use status::{JobStatus, LeftImage, SetStatus, Staged, TargetStatus, status_json, status_text};
pub use table::Table;

pub use crate::words::{count, word};

use crate::notice::NoticeLevel;

/// Whose event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At<'a> {
    pub job: &'a str,
    /// `None` for what concerns the job as a whole (its scan).
    pub target: Option<&'a str>,
}

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.target {
            Some(target) => write!(f, "{}/{target}", self.job),
            None => f.write_str(self.job),
        }
    }
}

/// Shows events as they happen.
pub trait Reporter {
    fn event(&mut self, at: &At<'_>, event: &Event);

    /// One that is shown later than it happened.
    fn event_at(&mut self, _time: jiff::Timestamp, at: &At<'_>, event: &Event) {
        self.event(at, event);
    }
}

/// Shows warnings and errors, and what is waited for: for commands whose result is something else than events.
pub struct Quiet {
    verbose: bool,
    told: Option<String>,
}

impl Quiet {
    pub fn new(verbose: bool) -> Self {
        Self { verbose, told: None }
    }
}

impl Reporter for Quiet {
    fn event(&mut self, at: &At<'_>, event: &Event) {
        if let Event::Log { level, message } = event
            && (self.verbose || matches!(level.as_str(), "warn" | "error"))
        {
            note(&format!("{at}: {message}"));
        }
        if let Event::Notice(notice) = event
            && notice.level > NoticeLevel::Info
        {
            note(&format!("{at}: {}", human::notice_text(notice)));
        }
        // What a scan waits for, once: a command that stands still says why.
        if let (Event::Alive { note: text }, None) = (event, at.target)
            && !text.is_empty()
            && self.told.as_ref() != Some(text)
        {
            note(&format!("{at}: {text}"));
            self.told = Some(text.clone());
        }
    }
}
