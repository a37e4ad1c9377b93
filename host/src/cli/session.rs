//! What most commands begin with: which jobs, where state is, which plugins, and how a stop reaches the workers.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::args::{Global, JobArgs};
use crate::config::{self, Job, Problem, Problems, units};
use crate::error::{Error, Kind, Result};
use crate::plan::DeleteFirst;
use crate::report::exit::Exit;
use crate::report::{self, Reporter};
use crate::run::protocol::Stop;
use crate::run::supervisor::{Context, secret_variables};

/// Where state is kept, absolute.
pub fn state_dir(global: &Global) -> PathBuf {
    let dir = global.state_dir.clone().unwrap_or_else(|| {
        if rustix::process::geteuid().is_root() {
            return PathBuf::from("/var/lib/offsite");
        }
        let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
        let home = || std::env::home_dir().unwrap_or_else(|| PathBuf::from("/var/tmp")).join(".local/state");
        state.unwrap_or_else(home).join("offsite")
    });
    std::path::absolute(&dir).unwrap_or(dir)
}

/// The jobs meant: one of the line, or those named (all) of the file, with what the line changes for this time.
pub fn jobs(global: &Global, args: &JobArgs) -> Result<Vec<Job>, Problems> {
    let mut jobs = match args.line.flags() {
        Some(flags) => vec![config::adhoc::job(&flags)?],
        None => named(global, args)?,
    };
    let mut wrong = Vec::new();
    let mut flag = |name: &str, what: String| {
        wrong.push(Problem { file: None, line: None, key: name.to_owned(), what, hint: None });
    };
    let settle = args.line.settle.as_deref().map(units::duration).transpose();
    let bandwidth = args.line.bandwidth.as_deref().map(units::rate).transpose();
    for job in &mut jobs {
        if let Ok(Some(settle)) = &settle {
            job.settle = *settle;
        }
        for target in &mut job.targets {
            if let Ok(Some(rate)) = &bandwidth {
                target.bandwidth = config::Bandwidth { rate: Some(*rate), windows: Vec::new() };
            }
            target.plan.allow_deletes |= args.line.allow_deletes;
            match args.line.delete_first.as_deref() {
                Some("last") => target.plan.delete_first = DeleteFirst::Last,
                Some(_) => target.plan.delete_first = target.plan.delete_first.max(DeleteFirst::Proved),
                None => {}
            }
            target.plan.include_other |= args.line.include_other;
        }
        for glob in args.line.ignore.iter().filter(|_| args.line.source.is_none()) {
            match config::glob(glob) {
                Ok(glob) => job.ignore.push(glob),
                Err(what) => flag("--ignore", what),
            }
        }
    }
    if let Err(what) = settle {
        flag("--settle", what);
    }
    if let Err(what) = bandwidth {
        flag("--bandwidth", what);
    }
    if wrong.is_empty() { Ok(jobs) } else { Err(Problems(wrong)) }
}

fn named(global: &Global, args: &JobArgs) -> Result<Vec<Job>, Problems> {
    let problem = |error: Error| Problem {
        file: None,
        line: None,
        key: String::new(),
        what: error.without_hint(),
        hint: error.hint,
    };
    let file = config::find(global.config.as_deref()).map_err(problem)?;
    let all = config::load(&file)?;
    if args.jobs.is_empty() {
        return Ok(all);
    }
    let mut wrong = Vec::new();
    let mut chosen: Vec<Job> = Vec::new();
    for name in &args.jobs {
        match all.iter().find(|job| job.name == *name) {
            Some(job) if chosen.iter().any(|c| c.name == job.name) => {}
            Some(job) => chosen.push(job.clone()),
            None => {
                let known: Vec<&str> = all.iter().map(|j| j.name.as_str()).collect();
                wrong.push(Problem {
                    file: None,
                    line: None,
                    key: String::new(),
                    what: format!("there is no job '{name}' in {}", file.display()),
                    hint: Some(format!("known are {}", known.join(", "))),
                });
            }
        }
    }
    if wrong.is_empty() { Ok(chosen) } else { Err(Problems(wrong)) }
}

/// The same, what is wrong already shown.
pub fn jobs_or_exit(global: &Global, args: &JobArgs) -> std::result::Result<Vec<Job>, Exit> {
    jobs(global, args).map_err(|problems| {
        report::problems(&problems);
        Exit::Usage
    })
}

/// Runs `command` with a context on a runtime of its own; stops reach the workers through the context.
pub fn with_context<F, W>(global: &Global, jobs: &[Job], reporter: Box<dyn Reporter>, command: F) -> Exit
where
    F: FnOnce(Rc<Context>) -> W,
    W: Future<Output = Exit> + 'static,
{
    let run = || -> Result<Exit> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::new(Kind::Io, "cannot start").because(e))?;
        let (wish, stop) = watch::channel(None);
        let context = Rc::new(context(global, jobs, reporter, stop)?);
        let work = command(context);
        let local = tokio::task::LocalSet::new();
        let exit = local.block_on(&runtime, async move {
            listen(wish)?;
            Ok(work.await)
        });
        // Whatever is stuck was reported; nothing waits for it.
        drop(local);
        runtime.shutdown_background();
        exit
    };
    run().unwrap_or_else(|error| fail(global, &error))
}

/// Shows an error that ended a command.
pub fn fail(global: &Global, error: &Error) -> Exit {
    report::error(error, global.verbose);
    report::exit::of_error(error)
}

fn context(
    global: &Global,
    jobs: &[Job],
    reporter: Box<dyn Reporter>,
    stop: watch::Receiver<Option<Stop>>,
) -> Result<Context> {
    let state_dir = state_dir(global);
    let plugin_dirs = global.plugin_dir.iter().map(|dir| std::path::absolute(dir).unwrap_or(dir.clone()));
    let now = crate::run::progress::now_ns();
    Ok(Context {
        installation: crate::target::names::installation(&state_dir)?,
        state_dir,
        plugin_dirs: plugin_dirs.collect(),
        verbose: global.verbose,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        run_id: format!("{now:x}-{}", std::process::id()),
        reporter: RefCell::new(reporter),
        said: RefCell::default(),
        stop,
        hide: secret_variables(jobs),
    })
}

/// The first signal asks for a stop at a checkpoint, the second for one at once.
fn listen(wish: watch::Sender<Option<Stop>>) -> Result<()> {
    let listen = |kind| signal(kind).map_err(|e| Error::new(Kind::Io, "cannot listen to signals").because(e));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    tokio::task::spawn_local(async move {
        for stop in [Stop::Checkpoint, Stop::Now] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            if stop == Stop::Checkpoint {
                // In a thread: a terminal that takes nothing must not keep the workers from hearing of it.
                std::thread::spawn(|| {
                    report::note("stopping at the next checkpoint; a second signal stops at once");
                });
            }
            let _ = wish.send(Some(stop));
        }
        // Kept alive: a closed channel is no wish.
        std::future::pending::<()>().await;
    });
    Ok(())
}

/// Whether a target is meant by what was given as `--target`: its name, or its path or URL.
pub fn is_target(target: &config::Target, given: &str) -> bool {
    let base = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    target.name == given || config::url::normalise(given, &base).is_ok_and(|url| url == target.url)
}

/// The one target meant: by name, or the only one there is.
pub fn one_target<'j>(jobs: &'j [Job], name: Option<&str>) -> Result<(&'j Job, &'j config::Target)> {
    let all: Vec<_> = jobs.iter().flat_map(|j| j.targets.iter().map(move |t| (j, t))).collect();
    let chosen: Vec<_> = all.iter().filter(|(_, t)| name.is_none_or(|n| is_target(t, n))).collect();
    match (chosen.as_slice(), name) {
        ([one], _) => Ok(**one),
        ([], Some(name)) => Err(no_target(jobs, name)),
        _ => Err(Error::new(Kind::Usage, "several targets are meant")
            .because(all.iter().map(|(j, t)| format!("{}/{}", j.name, t.name)).collect::<Vec<_>>().join(", "))
            .hint("name one job, and one target with --target")),
    }
}

pub fn no_target(jobs: &[Job], name: &str) -> Error {
    let known: Vec<&str> = jobs.iter().flat_map(|j| &j.targets).map(|t| t.name.as_str()).collect();
    Error::new(Kind::Usage, format!("there is no target '{name}'"))
        .hint(format!("known are {}", known.join(", ")))
}

/// The directory a result is about, for people.
pub fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Shows errors, each once: what stops a job is said of each of its targets.
pub struct Told {
    verbose: bool,
    last: Option<Error>,
}

impl Told {
    pub fn new(verbose: bool) -> Self {
        Self { verbose, last: None }
    }

    pub fn tell(&mut self, error: Option<&Error>) {
        if let Some(error) = error.filter(|e| self.last.as_ref() != Some(e)) {
            report::error(error, self.verbose);
            self.last = Some(error.clone());
        }
    }
}
