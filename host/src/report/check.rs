//! Check reports for people and machines.

use offsite_plugin_api::{Capabilities, StepResult};

use super::json::json_error;
use super::table::{Table, clean};
use super::{At, bytes};
use crate::error::Error;
use crate::run::protocol::Answer;

/// One target's answer to a check.
pub struct CheckOf<'a> {
    pub job: &'a str,
    pub target: &'a str,
    pub url: &'a str,
    pub result: Result<&'a Answer, Error>,
}

/// `{"version":1,"targets":[{"job","target","url","passed","identity","claim","report","capabilities","space"}]}`.
pub fn check_json(checks: &[CheckOf<'_>]) -> String {
    let targets: Vec<_> = checks
        .iter()
        .map(|one| {
            let mut value = serde_json::json!({ "job": one.job, "target": one.target, "url": one.url });
            match &one.result {
                Ok(Answer::Check { identity, report, capabilities, space, claim }) => {
                    value["passed"] = report.passed().into();
                    value["identity"] = identity.as_str().into();
                    value["claim"] = serde_json::json!(claim);
                    value["report"] = serde_json::json!(report);
                    value["capabilities"] = serde_json::json!(capabilities);
                    value["space"] = serde_json::json!(space);
                }
                Ok(_) => {}
                Err(error) => {
                    value["passed"] = false.into();
                    value["error"] = json_error(error);
                }
            }
            value
        })
        .collect();
    serde_json::json!({ "version": 1, "targets": targets }).to_string()
}

pub fn check_text(checks: &[CheckOf<'_>]) -> String {
    let parts = checks.iter().map(|one| {
        let at = At { job: one.job, target: Some(one.target) };
        let Ok(Answer::Check { report, capabilities, space, claim, .. }) = &one.result else {
            return format!("{at} -> {}: failed", clean(one.url));
        };
        let verdict = if report.passed() { "passed" } else { "failed" };
        let mut text = format!("{at} -> {}: {verdict}\n", clean(one.url));
        let mut table = Table::new(&["STEP", "RESULT", "DETAIL"]);
        for step in &report.steps {
            let result = match step.result {
                StepResult::Passed => "passed",
                StepResult::Failed => "FAILED",
                StepResult::Warned => "warning",
                StepResult::Skipped => "skipped",
            };
            table.row([step.name.clone(), result.to_owned(), step.detail.clone()]);
        }
        text.push_str(&table.render());
        if let Some(server) = &report.server {
            text.push_str(&format!("\nserver: {}", clean(server)));
        }
        if let Some(claim) = claim {
            text.push_str(&format!("\nclaim: {}", clean(claim)));
        }
        if let Some(free) = space.and_then(|s| s.free) {
            text.push_str(&format!("\nfree: {}", bytes(free)));
        }
        if let Some(capabilities) = capabilities {
            text.push_str(&format!("\ncan: {}", able(capabilities)));
        }
        text
    });
    parts.collect::<Vec<_>>().join("\n\n")
}

/// What matters to a run, in words.
fn able(c: &Capabilities) -> String {
    use offsite_plugin_api::{Replace, Resume};
    let resume = match c.resume {
        Resume::Ranges => "resume any range",
        Resume::Offset => "resume from an offset",
        Resume::Parts => "resume by parts",
        Resume::None => "not resume: the file in flight starts again",
    };
    let replace = match c.replace {
        Replace::Atomic => "replace atomically",
        Replace::None => "replace by a swap with a short gap",
    };
    let mut words = vec![resume.to_owned(), replace.to_owned()];
    if c.durable_checkpoints {
        words.push("keep checkpoints through a power cut".to_owned());
    }
    if c.staged_readable {
        words.push("read back what is staged".to_owned());
    }
    if !c.digests.is_empty() {
        words.push(format!("compute {}", c.digests.join(", ")));
    }
    if !c.checked_digests.is_empty() {
        words.push(format!("check {} while receiving", c.checked_digests.join(", ")));
    }
    if c.retention {
        words.push("retain".to_owned());
    }
    if c.parallel_ranges > 1 {
        words.push(format!("take {} ranges of a file at once", c.parallel_ranges));
    }
    words.join("; ")
}
