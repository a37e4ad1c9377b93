//! An [`Error`] as it is written: between the processes, in events, answers, run records and JSON.
//!
//! Nothing is lost on the way: kind, what failed, on what, why, what to do, and whether trying again can help. The kind
//! is a kebab-case name (`source`, `target-refused`, …), a backend's with `backend-` before it (`backend-no-space`).
//! The fields and the names are part of the JSON's promise (`host/NOTICES.md`).

use std::time::Duration;

use offsite_plugin_api::Retry;
use serde::{Deserialize, Serialize};

use crate::error::{BackendKind, Error, Kind};

const KINDS: &[(&str, Kind)] = &[
    ("usage", Kind::Usage),
    ("config", Kind::Config),
    ("source", Kind::Source),
    ("target-refused", Kind::TargetRefused),
    ("plugin", Kind::Plugin),
    ("locked", Kind::Locked),
    ("state", Kind::State),
    ("verify", Kind::Verify),
    ("stopped", Kind::Stopped),
    ("worker-died", Kind::WorkerDied),
    ("io", Kind::Io),
];
const BACKEND: &str = "backend-";

/// An error's fields in JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Written {
    kind: String,
    what: String,
    #[serde(default)]
    on: Option<String>,
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    hint: Option<String>,
    /// `never`, `now` or `after`.
    #[serde(default)]
    retry: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

impl From<Error> for Written {
    fn from(error: Error) -> Self {
        let (retry, retry_after_ms) = match error.retry {
            Retry::Never => ("never", None),
            Retry::Now => ("now", None),
            Retry::After(wait) => ("after", Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))),
        };
        Self {
            kind: kind_name(&error.kind),
            what: error.what,
            on: error.on,
            source: error.source,
            hint: error.hint,
            retry: retry.to_owned(),
            retry_after_ms,
        }
    }
}

impl From<Written> for Error {
    fn from(written: Written) -> Self {
        let retry = match (written.retry.as_str(), written.retry_after_ms) {
            ("now", _) => Retry::Now,
            ("after", Some(ms)) => Retry::After(Duration::from_millis(ms)),
            _ => Retry::Never,
        };
        Self {
            kind: kind_of(&written.kind),
            what: written.what,
            on: written.on,
            source: written.source,
            hint: written.hint,
            retry,
        }
    }
}

/// The name of a kind in JSON.
pub fn kind_name(kind: &Kind) -> String {
    match kind {
        Kind::Backend(BackendKind::Unknown(name)) => format!("{BACKEND}{name}"),
        Kind::Backend(kind) => format!("{BACKEND}{}", kebab(kind.as_str())),
        other => KINDS.iter().find(|(_, kind)| kind == other).map_or("io", |(name, _)| name).to_owned(),
    }
}

/// A name that this version does not know is kept as an unknown kind of a backend.
fn kind_of(name: &str) -> Kind {
    if let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == name) {
        return kind.clone();
    }
    let name = name.strip_prefix(BACKEND).unwrap_or(name);
    let known = BackendKind::ALL.iter().find(|kind| kebab(kind.as_str()) == name);
    Kind::Backend(known.cloned().unwrap_or_else(|| BackendKind::Unknown(name.to_owned())))
}

/// `NoSpace` -> `no-space`.
fn kebab(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 2);
    for (at, c) in name.char_indices() {
        if c.is_ascii_uppercase() && at > 0 {
            text.push('-');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_the_crossing_whole() {
        let kinds = KINDS.iter().map(|(_, kind)| kind.clone());
        let backend = BackendKind::ALL.iter().cloned().chain([BackendKind::Unknown("Odd".into())]);
        for kind in kinds.chain(backend.map(Kind::Backend)) {
            for retry in [Retry::Never, Retry::Now, Retry::After(Duration::from_millis(1500))] {
                let mut error = Error::new(kind.clone(), "what").on("on").because("why").hint("do");
                error.retry = retry;
                let text = serde_json::to_string(&error).unwrap();
                assert_eq!(serde_json::from_str::<Error>(&text).unwrap(), error, "{text}");
            }
        }
    }

    #[test]
    fn the_fields_are_those_of_the_documentation() {
        let error =
            Error::new(Kind::Backend(BackendKind::NoSpace), "cannot write").on("a.qcow2").because("full");
        assert_eq!(
            serde_json::to_string(&error).unwrap(),
            r#"{"kind":"backend-no-space","what":"cannot write","on":"a.qcow2","source":"full","hint":null,"retry":"never"}"#
        );
    }

    #[test]
    fn the_documentation_lists_every_kind() {
        let text = include_str!("../NOTICES.md");
        let kinds = KINDS.iter().map(|(name, _)| (*name).to_owned());
        let backend = BackendKind::ALL.iter().map(|k| kind_name(&Kind::Backend(k.clone())));
        for name in kinds.chain(backend) {
            assert!(text.contains(&format!("`{name}`")), "{name} is not in host/NOTICES.md");
        }
    }

    #[test]
    fn what_a_newer_worker_writes_reads_too() {
        let error: Error =
            serde_json::from_str(r#"{"kind":"eclipse","what":"x","retry":"someday","moon":1}"#).unwrap();
        assert_eq!(error.kind, Kind::Backend(BackendKind::Unknown("eclipse".into())));
        assert_eq!(error.retry, Retry::Never);
        assert_eq!(kind_name(&error.kind), "backend-eclipse");
    }
}
