//! `offsite chains`: image sets and restore points of the source, or of a target.

use std::rc::Rc;
use std::time::Duration;

use super::args::{ChainsArgs, Global};
use super::each;
use super::session;
use crate::chain::{Chains, Knowledge, assemble};
use crate::config::Job;
use crate::error::{Error, Result};
use crate::report::exit::{self, Exit};
use crate::report::{self, ChainsOf, Quiet};
use crate::run::protocol::{Answer, Op};
use crate::run::scan_worker;
use crate::run::supervisor::Context;

pub fn main(global: &Global, args: &ChainsArgs) -> Exit {
    let jobs = match session::jobs_or_exit(global, &args.job) {
        Ok(jobs) => jobs,
        Err(exit) => return exit,
    };
    if let Some(name) = &args.target
        && !jobs.iter().flat_map(|j| &j.targets).any(|t| session::is_target(t, name))
    {
        return session::fail(global, &session::no_target(&jobs, name));
    }
    let (all, target, global_) = (jobs.clone(), args.target.clone(), global.clone());
    let reporter = Box::new(Quiet::new(global.verbose));
    session::with_context(global, &jobs, reporter, move |context| async move {
        let shown = match target {
            Some(name) => of_targets(&context, all, name).await,
            None => of_sources(&context, all).await,
        };
        if global_.json {
            report::line(&report::chains_json(&shown));
        } else {
            report::line(&report::chains_text(&shown, global_.verbose));
        }
        let mut told = session::Told::new(global_.verbose);
        for one in &shown {
            told.tell(one.result.as_ref().err());
        }
        let bad: Vec<_> = shown.iter().filter_map(|one| one.result.as_ref().err()).map(Some).collect();
        exit::of_answers(shown.len() - bad.len(), bad)
    })
}

async fn of_targets(context: &Rc<Context>, jobs: Vec<Job>, name: String) -> Vec<ChainsOf> {
    let asked = each::ask(context, jobs, Op::Chains, false, Some(name)).await;
    let shown = asked.into_iter().map(|one| {
        let result = match one.answer {
            Ok(Answer::Chains { open, chains }) => Ok((open, chains)),
            Ok(_) => Err(each::odd()),
            Err(error) => Err(error),
        };
        ChainsOf { job: one.job, target: Some(one.target.name), place: one.target.url, result }
    });
    shown.collect()
}

async fn of_sources(context: &Rc<Context>, jobs: Vec<Job>) -> Vec<ChainsOf> {
    let mut shown = Vec::new();
    for job in jobs {
        // As it is now: a look does not wait for files to settle.
        let job = Job { settle: Duration::ZERO, ..job };
        let result = source(context, &job).await.map(|chains| (Vec::new(), chains));
        shown.push(ChainsOf { job: job.name, target: None, place: session::shown(&job.source), result });
    }
    shown
}

async fn source(context: &Context, job: &Job) -> Result<Chains> {
    let (_scratch, path) = context.scan(job, true).await?;
    let inventory = scan_worker::read(&path)?;
    if inventory.files.is_empty() && !inventory.unreadable.is_empty() {
        return Err(Error::new(crate::error::Kind::Source, "the source cannot be read")
            .on(session::shown(&job.source)));
    }
    Ok(assemble(&inventory.members(), &Knowledge::default()))
}
