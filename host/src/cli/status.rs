//! `offsite status`: what runs, how the last runs ended, how old the last success is, which sets lag behind, what is staged.
//!
//! Green (`--max-age`) means: a run with nothing wrong ended within that time, and no set's newest image has been missing on
//! the target for longer than that. What is not known is not green.

use std::path::Path;

use super::args::{Global, StatusArgs};
use super::session;
use crate::catalog::{Catalog, JobDb, catalog_path};
use crate::config::{Job, Problem, Problems, Target, units};
use crate::error::Result;
use crate::report::exit::Exit;
use crate::report::{self, JobStatus, LeftImage, SetStatus, Staged, TargetStatus};
use crate::run::{left, progress};

/// Runs shown of each target.
const RUNS: usize = 5;

pub fn main(global: &Global, args: &StatusArgs) -> Exit {
    let jobs = match session::jobs_or_exit(global, &args.job) {
        Ok(jobs) => jobs,
        Err(exit) => return exit,
    };
    let max_age = match args.max_age.as_deref().map(units::duration).transpose() {
        Ok(age) => age,
        Err(what) => {
            let problem = Problem { file: None, line: None, key: "--max-age".to_owned(), what, hint: None };
            report::problems(&Problems(vec![problem]));
            return Exit::Usage;
        }
    };
    let state_dir = session::state_dir(global);
    let now_ns = progress::now_ns();
    let mut shown = Vec::new();
    for job in &jobs {
        match status(&state_dir, job) {
            Ok(status) => shown.push(status),
            Err(error) => return session::fail(global, &error),
        }
    }
    let limit = max_age.map(|age| i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
    for target in shown.iter_mut().flat_map(|j| &mut j.targets) {
        let age =
            target.last_success.as_ref().and_then(|run| run.ended_ns).map(|end| now_ns.saturating_sub(end));
        target.too_old = limit.is_some_and(|limit| age.is_none_or(|age| age > limit));
        for set in &mut target.sets {
            let long = |limit| set.lags_since_ns.is_some_and(|since| now_ns.saturating_sub(since) > limit);
            set.too_long = limit.is_some_and(long);
            target.lags |= set.too_long;
        }
    }
    if global.json {
        report::line(&report::status_json(&shown, now_ns));
    } else {
        report::line(&report::status_text(&shown, now_ns));
    }
    let old = shown.iter().flat_map(|j| &j.targets).any(|t| t.too_old || t.lags);
    if old { Exit::Failed } else { Exit::Done }
}

fn status(state_dir: &Path, job: &Job) -> Result<JobStatus> {
    let names: Vec<&str> = job.targets.iter().map(|t| t.name.as_str()).collect();
    let db = JobDb::peek(state_dir, &job.name, &names)?;
    let targets = job.targets.iter().map(|target| of_target(state_dir, job, target, &db));
    Ok(JobStatus {
        job: job.name.clone(),
        source: session::shown(&job.source),
        targets: targets.collect::<Result<_>>()?,
    })
}

fn of_target(state_dir: &Path, job: &Job, target: &Target, db: &JobDb) -> Result<TargetStatus> {
    let catalog = Catalog::peek(&catalog_path(state_dir, &job.name, &target.name))?;
    let staged = catalog.staged()?.into_iter().map(|file| Staged {
        path: file.path.display().into_owned(),
        bytes: file.ranges.iter().map(|r| r.length).sum(),
        size: file.identity.size,
    });
    let left = left::known(&catalog)?.into_iter().map(|(image, l)| LeftImage {
        image,
        since_ns: l.since_ns,
        runs: l.runs,
        waits: l.waits,
    });
    let sets = catalog.lags()?.into_iter().map(|(set, lag)| SetStatus {
        set,
        newest: lag.image.display().into_owned(),
        lags_since_ns: (lag.since_ns > 0).then_some(lag.since_ns),
        why: lag.why,
        too_long: false,
    });
    Ok(TargetStatus {
        target: target.name.clone(),
        url: target.url.clone(),
        running: progress::read(state_dir, &job.name, &target.name),
        last_success: db.last_success(&target.name)?,
        runs: db.runs(Some(&target.name), RUNS)?,
        staged: staged.collect(),
        left: left.collect(),
        sets: sets.collect(),
        too_old: false,
        lags: false,
    })
}
