//! The document that `offsite plan --json` prints: stable, version 1.

use serde::Serialize;

use super::{Action, Code, Plan, Step};

#[derive(Debug, Serialize)]
pub struct Document<'a> {
    pub version: u32,
    pub jobs: Vec<Job<'a>>,
}

#[derive(Debug, Serialize)]
pub struct Job<'a> {
    pub job: &'a str,
    pub targets: Vec<Target<'a>>,
}

#[derive(Debug, Serialize)]
pub struct Target<'a> {
    pub target: &'a str,
    /// Without credentials.
    pub url: &'a str,
    pub steps: Vec<JsonStep<'a>>,
}

#[derive(Debug, Serialize)]
pub struct JsonStep<'a> {
    pub action: Action,
    /// The anchor's path relative to the source; bytes that are no UTF-8 are replaced.
    pub image: String,
    /// To send (copy, replace) or to free (delete); 0 for a skip.
    pub bytes: u64,
    pub code: Code,
    pub reason: &'a str,
}

impl<'a> Document<'a> {
    pub const VERSION: u32 = 1;

    pub fn new(jobs: Vec<Job<'a>>) -> Self {
        Self { version: Self::VERSION, jobs }
    }
}

impl<'a> Target<'a> {
    pub fn new(target: &'a str, url: &'a str, plan: &'a Plan) -> Self {
        Self { target, url, steps: plan.steps.iter().map(JsonStep::from).collect() }
    }
}

impl<'a> From<&'a Step> for JsonStep<'a> {
    fn from(step: &'a Step) -> Self {
        Self {
            action: step.action,
            image: step.image.display().into_owned(),
            bytes: step.bytes,
            code: step.code,
            reason: &step.reason,
        }
    }
}
