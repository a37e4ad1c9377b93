//! What `check` found out about a target, step by step.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepResult {
    Passed,
    Failed,
    /// Works, but a user should know something.
    Warned,
    /// Not tried, because an earlier step failed or the server has no such thing.
    #[serde(other)]
    Skipped,
}

/// One step: `reach`, `authenticate`, `list`, `write`, `read`, `replace`, `delete`, `names`, …
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStep {
    pub name: String,
    pub result: StepResult,
    /// What happened and, on failure, what to do; in words, without secrets.
    pub detail: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckReport {
    /// Server product and version as it names itself.
    pub server: Option<String>,
    pub steps: Vec<CheckStep>,
}

impl CheckReport {
    pub fn add(&mut self, name: &str, result: StepResult, detail: impl Into<String>) {
        self.steps.push(CheckStep { name: name.to_owned(), result, detail: detail.into() });
    }

    /// Passed with these words, or failed with the error's. Whether it passed.
    pub fn step(&mut self, name: &str, result: crate::Result<String>) -> bool {
        match &result {
            Ok(detail) => self.add(name, StepResult::Passed, detail),
            Err(error) => self.add(name, StepResult::Failed, error.to_string()),
        }
        result.is_ok()
    }

    /// Those of `names` that are not in it yet.
    pub fn skip(&mut self, names: &[&str], why: &str) {
        for name in names {
            if self.steps.iter().all(|step| step.name != *name) {
                self.add(name, StepResult::Skipped, why);
            }
        }
    }

    pub fn passed(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(|s| s.result != StepResult::Failed)
    }
}
