//! Events as JSON, one a line, with time, job and target.

use serde::Serialize;

use super::print::line;
use super::{At, Event, Reporter};
use crate::error::Error;

#[derive(Serialize)]
struct Stamped<'a> {
    /// RFC 3339, UTC.
    time: String,
    job: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    #[serde(flatten)]
    event: &'a Event,
}

fn render(time: String, at: &At<'_>, event: &Event) -> String {
    let stamped = Stamped { time, job: at.job, target: at.target, event };
    serde_json::to_string(&stamped)
        .unwrap_or_else(|e| format!("{{\"event\":\"log\",\"level\":\"error\",\"message\":\"{e}\"}}"))
}

/// The reporter of `--json`.
pub struct Json;

impl Reporter for Json {
    fn event(&mut self, at: &At<'_>, event: &Event) {
        self.event_at(jiff::Timestamp::now(), at, event);
    }

    fn event_at(&mut self, time: jiff::Timestamp, at: &At<'_>, event: &Event) {
        line(&render(time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(), at, event));
    }
}

/// An error as an object, for results that are one JSON document.
pub fn json_error(error: &Error) -> serde_json::Value {
    serde_json::json!({ "error": error.without_hint(), "hint": error.hint, "failure": error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_is_one_line_with_time_job_and_target() {
        let at = At { job: "daily", target: Some("nas") };
        let event =
            Event::Published { image: "a\nb".into(), bytes: 5, level: "sampled".into(), unchanged: false };
        insta::assert_snapshot!(
            render("2026-01-02T03:04:05.678Z".into(), &at, &event),
            @r#"{"time":"2026-01-02T03:04:05.678Z","job":"daily","target":"nas","event":"published","image":"a\nb","bytes":5,"level":"sampled"}"#
        );
    }
}
