//! The host's one error type.
//!
//! Rules: an error says what failed, on what, why, and what to do about it. The kind decides the exit code (in
//! `report::exit`, the only place that knows exit codes). Secrets never enter an error. Libraries' errors become
//! `source`; backend errors keep their kind. Between processes, in events, run records and JSON it is written whole
//! (`failure`): nowhere is an error made again from its text.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use offsite_plugin_api::ErrorKind as BackendKind;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command line is wrong.
    Usage,
    /// The configuration is wrong.
    Config,
    /// The source cannot be read, is empty, vanished, or changed meanwhile.
    Source,
    /// A backend said so.
    Backend(BackendKind),
    /// A target refused before anything ran: claim marker, place, names.
    TargetRefused,
    /// A plugin cannot be used.
    Plugin,
    /// Another process holds the target's lock.
    Locked,
    /// The local state (catalog, job database, run records) cannot be read or written.
    State,
    /// A staged or published file does not hold what was read from the source.
    Verify,
    /// Stopped by the user or because the supervisor went away.
    Stopped,
    /// A worker process ended without an answer.
    WorkerDied,
    Io,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "crate::failure::Written", into = "crate::failure::Written")]
pub struct Error {
    pub kind: Kind,
    /// What failed, as a sentence fragment: `cannot read the source`.
    pub what: String,
    /// On what: a path, a target's name, a key with file and line.
    pub on: Option<String>,
    /// The underlying error's text.
    pub source: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    pub retry: offsite_plugin_api::Retry,
}

impl Error {
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        let retry = match &kind {
            Kind::Backend(kind) => kind.default_retry(),
            Kind::WorkerDied => offsite_plugin_api::Retry::Now,
            _ => offsite_plugin_api::Retry::Never,
        };
        Self { kind, what: what.into(), on: None, source: None, hint: None, retry }
    }

    pub fn on(mut self, on: impl Into<String>) -> Self {
        self.on = Some(on.into());
        self
    }

    pub fn because(mut self, source: impl fmt::Display) -> Self {
        self.source = Some(source.to_string());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// For an operating-system error on a local path.
    pub fn io(what: impl Into<String>, path: impl AsRef<std::path::Path>, error: std::io::Error) -> Self {
        Self::new(Kind::Io, what).on(path.as_ref().display().to_string()).because(error)
    }

    /// One line without the hint, for where that has a place of its own.
    pub fn without_hint(&self) -> String {
        Self { hint: None, ..self.clone() }.to_string()
    }

    /// With texts cut to what an event may hold: a plugin's may be of any length.
    pub fn bounded(&self, most: usize) -> Self {
        let cut = |text: &String| crate::words::shorten(text, most);
        Self {
            what: cut(&self.what),
            on: self.on.as_ref().map(cut),
            source: self.source.as_ref().map(cut),
            hint: self.hint.as_ref().map(cut),
            ..self.clone()
        }
    }

    /// Every text of it, to be changed: for taking secrets out.
    pub fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        [Some(&mut self.what), self.on.as_mut(), self.source.as_mut(), self.hint.as_mut()]
            .into_iter()
            .flatten()
    }

    /// Whether this is a backend's error of that kind.
    pub fn is_backend(&self, kind: &BackendKind) -> bool {
        matches!(&self.kind, Kind::Backend(k) if k == kind)
    }
}

impl fmt::Display for Error {
    /// One line: `what: on: source; hint`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(on) = &self.on {
            write!(f, ": {on}")?;
        }
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<offsite_plugin_api::Error> for Error {
    fn from(error: offsite_plugin_api::Error) -> Self {
        // What to do about it is a fact of its own, not one more circumstance.
        let (hints, facts): (Vec<_>, Vec<_>) = error.context().iter().partition(|(key, _)| key == "hint");
        let context: Vec<String> = facts.iter().map(|(k, v)| format!("{k} {v}")).collect();
        Self {
            kind: Kind::Backend(error.kind().clone()),
            what: error.message().to_owned(),
            on: (!context.is_empty()).then(|| context.join(", ")),
            source: error.source_text().map(str::to_owned),
            hint: hints.first().map(|(_, hint)| hint.clone()),
            retry: error.retry(),
        }
    }
}
