//! `offsite plan`: what a run would do, and why. Changes nothing anywhere.

use super::args::{Global, JobArgs};
use super::each::{self, Asked};
use super::session;
use crate::report::exit::{self, Exit};
use crate::report::{self, Quiet};
use crate::run::protocol::{Answer, Op};

pub fn main(global: &Global, args: &JobArgs) -> Exit {
    let jobs = match session::jobs_or_exit(global, args) {
        Ok(jobs) => jobs,
        Err(exit) => return exit,
    };
    let (all, global_) = (jobs.clone(), global.clone());
    let reporter = Box::new(Quiet::new(global.verbose));
    session::with_context(global, &jobs, reporter, move |context| async move {
        let asked = each::ask(&context, all, Op::Plan, true, None).await;
        show(&global_, &asked)
    })
}

fn show(global: &Global, asked: &[Asked]) -> Exit {
    let mut shown = Vec::new();
    let mut good = 0;
    for one in asked {
        let result = match &one.answer {
            Ok(Answer::Plan { open, plan }) => Ok((open.as_slice(), plan)),
            Ok(_) => Err(each::odd()),
            Err(error) => Err(error.clone()),
        };
        good += usize::from(result.is_ok());
        shown.push(report::PlanOf { job: &one.job, target: &one.target.name, url: &one.target.url, result });
    }
    if global.json {
        report::line(&report::plan_json(&shown));
    } else {
        report::line(&report::plan_text(&shown, global.verbose));
    }
    let mut told = session::Told::new(global.verbose);
    for one in &shown {
        told.tell(one.result.as_ref().err());
    }
    exit::of_answers(good, shown.iter().filter_map(|one| one.result.as_ref().err()).map(Some))
}
