//! One [`Event`] type; human output and JSON come from it. The only module that prints, with `main`.
//!
//! Nothing here ever gets a secret: events, errors and results hold none, and URLs came without passwords.

mod amount;
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

pub use amount::{ago, bytes, count, duration, rate};
pub use chains::{ChainsOf, chains_json, chains_text};
pub use check::{CheckOf, check_json, check_text};
pub use errors::{error, problems};
pub use event::{Event, Outcome};
pub use human::Human;
pub use json::{Json, json_error};
pub use plan::{PlanOf, plan_json, plan_text};
pub use plugins::{plugin_json, plugin_text, plugins_json, plugins_text};
pub use print::{line, note};
pub use status::{JobStatus, Staged, TargetStatus, status_json, status_text};
pub use table::Table;

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
}

/// Shows warnings and errors only: for commands whose result is something else than events.
pub struct Quiet {
    pub verbose: bool,
}

impl Reporter for Quiet {
    fn event(&mut self, at: &At<'_>, event: &Event) {
        if let Event::Log { level, message } = event
            && (self.verbose || matches!(level.as_str(), "warn" | "error"))
        {
            note(&format!("{at}: {message}"));
        }
    }
}
