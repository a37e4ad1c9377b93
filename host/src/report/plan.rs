//! Plans for people and machines.

use serde::Serialize;

use super::human::notice_text;
use super::json::json_error;
use super::table::{Table, clean};
use super::{At, bytes, count, word};
use crate::error::Error;
use crate::plan::json::{Document, JsonStep};
use crate::plan::{Action, Plan};

/// One target's plan, or why there is none. `open`: what a run would settle first.
pub struct PlanOf<'a> {
    pub job: &'a str,
    pub target: &'a str,
    pub url: &'a str,
    pub result: Result<(&'a [String], &'a Plan), Error>,
}

#[derive(Serialize)]
struct JsonTarget<'a> {
    target: &'a str,
    url: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    open: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notices: &'a [crate::notice::Notice],
    steps: Vec<JsonStep<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<serde_json::Value>,
}

#[derive(Serialize)]
struct JsonJob<'a> {
    job: &'a str,
    targets: Vec<JsonTarget<'a>>,
}

/// The document of `offsite plan --json`, version 1 (`plan::json`), with what failed under `error`.
pub fn plan_json(plans: &[PlanOf<'_>]) -> String {
    let mut jobs: Vec<JsonJob<'_>> = Vec::new();
    for one in plans {
        let (open, plan, error) = match &one.result {
            Ok((open, plan)) => (*open, Some(*plan), None),
            Err(error) => (&[][..], None, Some(json_error(error))),
        };
        let target = JsonTarget {
            target: one.target,
            url: one.url,
            open,
            notices: plan.map_or(&[], |p| &p.notices),
            steps: plan.map(|p| p.steps.iter().map(JsonStep::from).collect()).unwrap_or_default(),
            error,
        };
        match jobs.last_mut().filter(|j| j.job == one.job) {
            Some(job) => job.targets.push(target),
            None => jobs.push(JsonJob { job: one.job, targets: vec![target] }),
        }
    }
    let document = serde_json::json!({ "version": Document::VERSION, "jobs": jobs });
    document.to_string()
}

/// Steps with reasons, then totals; skips that are up to date only with `verbose`.
pub fn plan_text(plans: &[PlanOf<'_>], verbose: bool) -> String {
    let mut parts = Vec::new();
    for one in plans {
        let at = At { job: one.job, target: Some(one.target) };
        let mut text = format!("{at} -> {}\n", clean(one.url));
        let Ok((open, plan)) = &one.result else {
            text.push_str("no plan");
            parts.push(text);
            continue;
        };
        for open in *open {
            text.push_str(&format!("first, a run settles: {}\n", clean(open)));
        }
        let mut table = Table::new(&["ACTION", "IMAGE", "SIZE", "REASON"]).right(&[2]);
        let mut hidden = 0;
        for step in &plan.steps {
            let quiet = step.code == crate::plan::Code::UpToDate && !step.not_restorable;
            if !verbose && step.action == Action::Skip && quiet {
                hidden += 1;
                continue;
            }
            let size = if step.bytes > 0 { bytes(step.bytes) } else { String::new() };
            table.row([
                action(step.action).to_owned(),
                step.image.display().into_owned(),
                size,
                step.reason.to_string(),
            ]);
        }
        if !table.is_empty() {
            text.push_str(&table.render());
            text.push('\n');
        }
        if hidden > 0 {
            text.push_str(&format!(
                "{} {} up to date (-v shows {})\n",
                count(hidden, "image"),
                word(hidden, "is", "are"),
                word(hidden, "it", "them")
            ));
        }
        for notice in &plan.notices {
            text.push_str(&format!("{}\n", notice_text(notice)));
        }
        let t = &plan.totals;
        text.push_str(&format!(
            "total: {} to copy, {} to replace, {} to delete, {} to skip; {} to send",
            t.copy,
            t.replace,
            t.delete,
            t.skip,
            bytes(t.bytes)
        ));
        parts.push(text);
    }
    parts.join("\n\n")
}

fn action(action: Action) -> &'static str {
    match action {
        Action::Copy => "copy",
        Action::Replace => "replace",
        Action::Delete => "delete",
        Action::Skip => "skip",
    }
}
