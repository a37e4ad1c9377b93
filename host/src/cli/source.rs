//! `offsite source accept`: what a user decides about a source.

use std::path::{Path, PathBuf};
use std::time::Duration;

use offsite_plugin_api::TargetPath;

use super::args::{Global, JobArgs, LineArgs, SourceArgs, SourceCommand};
use super::{each, session};
use crate::config::{self, Job};
use crate::error::{Error, Kind, Result};
use crate::report::exit::{self, Exit};
use crate::report::{self, Quiet};
use crate::run::protocol::{Answer, Op};

pub fn main(global: &Global, command: &SourceCommand) -> Exit {
    match command {
        SourceCommand::Accept(args) => accept(global, args),
    }
}

fn accept(global: &Global, args: &SourceArgs) -> Exit {
    // The targets do not matter here: without one, the source is enough.
    let jobs = match args.line.source.as_ref().filter(|_| args.line.to.is_empty()) {
        Some(source) => match on_the_line(source, &args.line) {
            Ok(job) => vec![job],
            Err(error) => return session::fail(global, &error),
        },
        None => {
            let named = JobArgs { jobs: args.job.iter().cloned().collect(), line: args.line.clone() };
            match session::jobs_or_exit(global, &named) {
                Ok(jobs) => jobs,
                Err(exit) => return exit,
            }
        }
    };
    let (job, place) = match choose(&jobs, &args.path) {
        Ok(chosen) => chosen,
        Err(error) => return session::fail(global, &error),
    };
    let global_ = global.clone();
    let reporter = Box::new(Quiet::new(global.verbose));
    session::with_context(global, &jobs, reporter, move |context| async move {
        let request = context.request(Op::AcceptSource { place }, job.clone(), None);
        match context.ask(&request, &format!("offsite: {}/source", job.name)).await {
            Ok(Answer::Done { what }) if global_.json => {
                report::line(&serde_json::json!({ "done": what }).to_string());
            }
            Ok(Answer::Done { what }) => report::line(&what),
            Ok(_) => return session::fail(&global_, &each::odd()),
            Err(error) => {
                report::error(&error, global_.verbose);
                return exit::of_error(&error);
            }
        }
        Exit::Done
    })
}

/// As `run --source` names it.
fn on_the_line(source: &Path, line: &LineArgs) -> Result<Job> {
    let source = config::source_dir(source);
    let name = line.name.clone().unwrap_or_else(|| config::adhoc::name_of(&source));
    let glob = |glob: &String| {
        let wrong = |what| Error::new(Kind::Usage, "--ignore is no glob").on(glob.clone()).because(what);
        config::glob(glob).map_err(wrong)
    };
    let ignore = line.ignore.iter().map(glob).collect::<Result<_>>()?;
    Ok(Job { name, source, targets: Vec::new(), settle: Duration::ZERO, ignore })
}

/// The job that the path lies in the source of, and the path within it. A relative path is the source's; where that is
/// there only from the current directory, it is that.
fn choose(jobs: &[Job], given: &Path) -> Result<(Job, TargetPath)> {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")).join(given);
    let mut chosen = Vec::new();
    for job in jobs {
        let within = config::url::tidy(&here).strip_prefix(&job.source).map(Path::to_owned).ok();
        let within = match within {
            Some(within) => Some(within),
            None if given.is_relative() => Some(config::url::tidy(&job.source.join(given)))
                .and_then(|path| path.strip_prefix(&job.source).map(Path::to_owned).ok()),
            None => None,
        };
        if let Some(within) = within {
            let bytes = std::os::unix::ffi::OsStrExt::as_bytes(within.as_os_str());
            let place = if bytes.is_empty() { Ok(TargetPath::root()) } else { TargetPath::new(bytes) };
            let place = place.map_err(|e| {
                Error::new(Kind::Usage, "this is no path of a source")
                    .on(given.display().to_string())
                    .because(e)
            })?;
            chosen.push((job.clone(), place));
        }
    }
    let several = chosen.len() > 1;
    match chosen.pop().filter(|_| !several) {
        Some(one) => Ok(one),
        None if several => {
            Err(Error::new(Kind::Usage, "several jobs have such a path").hint("name the job with --job"))
        }
        None => Err(Error::new(Kind::Usage, "the path lies in no job's source")
            .on(given.display().to_string())
            .hint("give a folder of the source, and the job with --job or --source")),
    }
}
