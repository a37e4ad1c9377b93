//! `offsite run`: everything of the chosen jobs, each target in a worker of its own.

use std::rc::Rc;

use super::args::{Global, RunArgs};
use super::session;
use crate::report::exit::{self, Exit};
use crate::report::{self, Human, Json, Reporter};
use crate::run::supervisor;

pub fn main(global: &Global, args: &RunArgs) -> Exit {
    let jobs = match session::jobs_or_exit(global, &args.job) {
        Ok(jobs) => jobs,
        Err(exit) => return exit,
    };
    let reporter: Box<dyn Reporter> =
        if global.json { Box::new(Json) } else { Box::new(Human::new(global.verbose)) };
    let (all, json, verbose) = (jobs.clone(), global.json, global.verbose);
    session::with_context(global, &jobs, reporter, move |context| async move {
        let ends = supervisor::run(Rc::clone(&context), all).await;
        // Standard output is the machine's: people and cron still read why nothing was done.
        for error in ends.iter().filter_map(|end| end.result.as_ref().err()).filter(|_| json) {
            report::error(error, verbose);
        }
        exit::of_run(&ends)
    })
}
