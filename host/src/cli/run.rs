//! `offsite run`: everything of the chosen jobs, each target in a worker of its own.

use std::rc::Rc;
use std::time::Duration;

use super::args::{Global, RunArgs};
use super::session;
use crate::report::exit::{self, Exit};
use crate::report::{self, Behind, Human, Json};
use crate::run::supervisor;

/// What the output of a stopped run may still take.
const PARTING: Duration = Duration::from_secs(2);

pub fn main(global: &Global, args: &RunArgs) -> Exit {
    let jobs = match session::jobs_or_exit(global, &args.job) {
        Ok(jobs) => jobs,
        Err(exit) => return exit,
    };
    let behind = if global.json { Behind::new(Json) } else { Behind::new(Human::new(global.verbose)) };
    let (rest, reporter) = (behind.rest(), Box::new(behind));
    let (all, json, verbose) = (jobs.clone(), global.json, global.verbose);
    session::with_context(global, &jobs, reporter, move |context| async move {
        let ends = supervisor::run(Rc::clone(&context), all).await;
        // A reader may take its time. One who stops the program has seen enough.
        let mut stop = context.stop.clone();
        let enough = async {
            let _ = stop.wait_for(Option::is_some).await;
            tokio::time::sleep(PARTING).await;
        };
        tokio::select! {
            () = rest.shown() => {}
            () = enough => return exit::of_run(&ends),
        }
        // Standard output is the machine's: people and cron still read why nothing was done.
        for error in ends.iter().filter_map(|end| end.result.as_ref().err()).filter(|_| json) {
            report::error(error, verbose);
        }
        exit::of_run(&ends)
    })
}
