//! `offsite check`: each target's own report, with capabilities.

use super::args::{CheckArgs, Global};
use super::each;
use super::session;
use crate::report::exit::{self, Exit};
use crate::report::{self, CheckOf, Quiet};
use crate::run::protocol::{Answer, Op};

pub fn main(global: &Global, args: &CheckArgs) -> Exit {
    let jobs = match session::jobs_or_exit(global, &args.job) {
        Ok(jobs) => jobs,
        Err(exit) => return exit,
    };
    if let Some(name) = &args.target
        && !jobs.iter().flat_map(|j| &j.targets).any(|t| session::is_target(t, name))
    {
        return session::fail(global, &session::no_target(&jobs, name));
    }
    let (all, only, global_) = (jobs.clone(), args.target.clone(), global.clone());
    let reporter = Box::new(Quiet::new(global.verbose));
    session::with_context(global, &jobs, reporter, move |context| async move {
        let asked = each::ask(&context, all, Op::Check, false, only).await;
        let mut shown = Vec::new();
        for one in &asked {
            let result = match &one.answer {
                Ok(answer @ Answer::Check { .. }) => Ok(answer),
                Ok(_) => Err(each::odd()),
                Err(error) => Err(error.clone()),
            };
            shown.push(CheckOf { job: &one.job, target: &one.target.name, url: &one.target.url, result });
        }
        let passed =
            |one: &&CheckOf<'_>| matches!(one.result, Ok(Answer::Check { report, .. }) if report.passed());
        let good = shown.iter().filter(passed).count();
        if global_.json {
            report::line(&report::check_json(&shown));
        } else {
            report::line(&report::check_text(&shown));
        }
        let mut told = session::Told::new(global_.verbose);
        for one in &shown {
            told.tell(one.result.as_ref().err());
        }
        exit::of_answers(good, shown.iter().filter(|one| !passed(one)).map(|one| one.result.as_ref().err()))
    })
}
