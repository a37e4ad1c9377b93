//! The supervisor: one scan per job, one worker process per target, restarts within each target's retry budget, run
//! records, progress for `status`. It never touches source or targets itself, so that nothing there can hold it up.
//!
//! Jobs and targets run side by side and know nothing of each other: whatever happens to one ends in its own [`TargetEnd`].

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::attend::{End, StopWish, attend, patience};
use super::identity::Known;
use super::process::Worker;
use super::progress::Live;
use super::protocol::{Answer, Op, Request, SecretValues};
use super::said::Said;
use super::scratch::Scratch;
use super::{identity, places, retry};
use crate::catalog::{JobDb, RunRecord, Wrong};
use crate::config::{Job, SecretRef, Target, resolve};
use crate::error::{Error, Kind, Result};
use crate::notice::{Notice, NoticeCode, NoticeLevel};
use crate::report::{At, Event, Outcome, Reporter};

/// What every job of a command shares.
pub struct Context {
    /// Absolute.
    pub state_dir: PathBuf,
    pub plugin_dirs: Vec<PathBuf>,
    pub verbose: bool,
    pub installation: String,
    pub host: String,
    pub run_id: String,
    pub reporter: RefCell<Box<dyn Reporter>>,
    pub said: RefCell<Said>,
    pub stop: StopWish,
    /// Environment variables that hold some target's secrets: no worker inherits them.
    pub hide: Vec<String>,
}

/// The variables of every reference in these jobs.
pub fn secret_variables(jobs: &[Job]) -> Vec<String> {
    let references = jobs.iter().flat_map(|j| &j.targets).flat_map(|t| t.secrets.values());
    references
        .filter_map(|r| match r {
            SecretRef::Env(name) => Some(name.clone()),
            _ => None,
        })
        .collect()
}

/// How one target's part of a run ended.
#[derive(Clone, Debug)]
pub struct TargetEnd {
    pub target: String,
    pub outcome: Outcome,
    /// A notice that makes the run count as not wholly done (deletions held back by `max_delete`).
    pub fault: bool,
    pub error: Option<Error>,
}

/// How one job ended: with its targets, or stopped before any of them was touched.
#[derive(Clone, Debug)]
pub struct JobEnd {
    pub job: String,
    pub result: Result<Vec<TargetEnd>>,
}

impl Context {
    pub fn event(&self, job: &str, target: Option<&str>, event: &Event) {
        if let Event::Notice(notice) = event
            && !self.said.borrow_mut().is_new(job, target, notice)
        {
            return;
        }
        self.reporter.borrow_mut().event(&At { job, target }, event);
    }

    /// The request of a worker; `secrets` are to be filled in for the target that needs them.
    pub fn request(&self, op: Op, job: Job, inventory: Option<PathBuf>) -> Request {
        Request {
            op,
            run_id: self.run_id.clone(),
            attempt: 1,
            job,
            secrets: SecretValues::default(),
            plugin_dirs: self.plugin_dirs.clone(),
            state_dir: self.state_dir.clone(),
            inventory,
            installation: self.installation.clone(),
            host: self.host.clone(),
            verbose: self.verbose,
        }
    }

    /// One worker for one operation, and its answer. `title`: shown by `top -c`.
    pub async fn ask(&self, request: &Request, title: &str) -> Result<Answer> {
        let target = match request.op {
            Op::Scan | Op::Look | Op::AcceptSource { .. } => None,
            _ => request.job.targets.first(),
        };
        let (job, name) = (request.job.name.clone(), target.map(|t| t.name.clone()));
        let mut worker = Worker::start(request, title, &self.hide).await?;
        let mut stop = self.stop.clone();
        let on_event = |event: Event| self.event(&job, name.as_deref(), &event);
        let (end, answer) =
            attend(&mut worker, target, &request.secrets, &mut stop, patience(), on_event).await;
        match answer {
            Some(Answer::Failed(failure)) => Err(failure),
            Some(answer) => Ok(answer),
            None if self.stop.borrow().is_some() => Err(Error::new(Kind::Stopped, "stopped by the user")),
            None => Err(died(&end, title)),
        }
    }

    /// Scans the source into an inventory, which lives as long as the returned value.
    pub async fn scan(&self, job: &Job, changes_nothing: bool) -> Result<(Scratch, PathBuf)> {
        let (scratch, path) = Scratch::new(if changes_nothing { None } else { Some(&self.state_dir) })?;
        let op = if changes_nothing { Op::Look } else { Op::Scan };
        let request = self.request(op, job.clone(), Some(path.clone()));
        let answer =
            self.ask(&request, &format!("offsite: {}/source", job.name)).await.map_err(|e| match e.kind {
                Kind::WorkerDied => Error::new(Kind::Source, "cannot read the source")
                    .on(job.source.display().to_string())
                    .because(e)
                    .hint("is the file system it is on still answering? nothing was touched on any target"),
                _ => e,
            })?;
        match answer {
            Answer::Scanned { files, bytes, unsettled, unreadable } => {
                self.event(&job.name, None, &Event::Scanned { files, bytes, unsettled, unreadable });
                Ok((scratch, path))
            }
            _ => Err(Error::new(Kind::WorkerDied, "the scan gave no inventory")
                .on(job.source.display().to_string())),
        }
    }

    /// A job with one of its targets only.
    pub fn only(job: &Job, target: &Target) -> Job {
        Job { targets: vec![target.clone()], ..job.clone() }
    }
}

fn died(end: &End, title: &str) -> Error {
    let error = Error::new(Kind::WorkerDied, format!("the worker {end}")).on(title.to_owned());
    if end.stuck() {
        return error.hint("its file system or server does not answer; it goes away when that does");
    }
    error
}

/// Runs all jobs side by side; the results in their order.
pub async fn run(context: Rc<Context>, jobs: Vec<Job>) -> Vec<JobEnd> {
    let tasks: Vec<_> = jobs
        .into_iter()
        .map(|job| {
            let context = Rc::clone(&context);
            let name = job.name.clone();
            (name, tokio::task::spawn_local(async move { run_job(context, job).await }))
        })
        .collect();
    let mut ends = Vec::new();
    for (job, task) in tasks {
        let result = task.await.unwrap_or_else(|e| Err(internal(&e)));
        ends.push(JobEnd { job, result });
    }
    ends
}

fn internal(error: &tokio::task::JoinError) -> Error {
    Error::new(Kind::WorkerDied, "the supervisor failed; please report this").because(error)
}

/// Errors: what stopped the job before any target was touched.
async fn run_job(context: Rc<Context>, job: Job) -> Result<Vec<TargetEnd>> {
    let result = prepare(&context, &job).await;
    let Prepared { scratch, inventory, refused, known } = match result {
        Ok(prepared) => prepared,
        Err(error) => {
            note_job_failure(&context, &job, &error);
            return Err(error);
        }
    };
    let job = Rc::new(job);
    let mut tasks = Vec::new();
    for (index, (refused, known)) in refused.into_iter().zip(known).enumerate() {
        let (context, job, inventory) = (Rc::clone(&context), Rc::clone(&job), inventory.clone());
        tasks.push(tokio::task::spawn_local(async move {
            run_target(&context, &job, &job.targets[index], inventory, refused, known).await
        }));
    }
    let mut ends = Vec::new();
    for (index, task) in tasks.into_iter().enumerate() {
        ends.push(task.await.unwrap_or_else(|e| TargetEnd {
            target: job.targets[index].name.clone(),
            outcome: Outcome::Failed,
            fault: false,
            error: Some(internal(&e)),
        }));
    }
    drop(scratch);
    Ok(ends)
}

/// What a job's workers begin with.
struct Prepared {
    scratch: Scratch,
    inventory: PathBuf,
    refused: Vec<Option<Error>>,
    known: Vec<Known>,
}

async fn prepare(context: &Rc<Context>, job: &Job) -> Result<Prepared> {
    let refused = places::refuse(job).await?;
    // Side by side, because a scan waits for files to settle.
    let (known, (scratch, inventory)) =
        tokio::try_join!(identity::refuse(context, job), context.scan(job, false))?;
    Ok(Prepared { scratch, inventory, refused, known })
}

/// Each target's record says why nothing was done.
fn note_job_failure(context: &Context, job: &Job, error: &Error) {
    context.event(&job.name, None, &Event::job_failed(error));
    let outcome = if error.kind == Kind::Stopped { Outcome::Stopped } else { Outcome::Failed };
    for target in &job.targets {
        let mut record = RunRecord::begin(&context.run_id, &target.name);
        record.ended_ns = Some(record.started_ns);
        record.outcome = Some(outcome);
        record.error = Some(error.to_string());
        record.clean = Some(false);
        record.wrong.ended_by(Some(error));
        keep(context, job, &record);
    }
}

/// Keeps a run record; a state directory that cannot be written costs the record, not the run.
fn keep(context: &Context, job: &Job, record: &RunRecord) {
    let names: Vec<&str> = job.targets.iter().map(|t| t.name.as_str()).collect();
    let kept = JobDb::open(&context.state_dir, &job.name, &names).and_then(|db| db.put_run(record));
    if let Err(error) = kept {
        let text =
            format!("the run record was not kept, so `offsite status` does not show this run: {error}");
        let notice = Notice::new(NoticeCode::RecordLost, text);
        context.event(&job.name, Some(&record.target), &Event::Notice(notice));
    }
}

async fn run_target(
    context: &Context,
    job: &Job,
    target: &Target,
    inventory: PathBuf,
    refused: Option<Error>,
    known: Known,
) -> TargetEnd {
    let mut record = RunRecord::begin(&context.run_id, &target.name);
    keep(context, job, &record);
    let mut live = Live::new(&context.state_dir, job, target, &record);
    let mut attempts = Attempts {
        context,
        job,
        target,
        inventory,
        secrets: known.secrets,
        live: &mut live,
        wrong: Wrong::default(),
        finished: None,
    };
    let (outcome, error) = match refused {
        Some(error) => (Outcome::Failed, Some(error)),
        None => attempts.run().await,
    };
    let (mut wrong, finished) = (std::mem::take(&mut attempts.wrong), attempts.finished.take());
    for notice in context.said.borrow().of_job(&job.name) {
        wrong.notice(&notice);
    }
    let fault = wrong.notices.iter().any(|told| told.level == NoticeLevel::Failing);
    if let Some(Event::Finished { sent_bytes, images, deleted, failed, .. }) = finished {
        (record.sent_bytes, record.images, record.deleted, record.failed) =
            (sent_bytes, images, deleted, failed);
    } else {
        // No worker lived to say it: the supervisor's own last word for this target.
        record.sent_bytes = live.sent();
        let event = Event::Finished {
            outcome,
            sent_bytes: record.sent_bytes,
            images: 0,
            unchanged: 0,
            deleted: 0,
            failed: 0,
            left: 0,
            error: error.as_ref().map(ToString::to_string),
            failure: error.clone().map(Box::new),
        };
        context.event(&job.name, Some(&target.name), &event);
    }
    record.error = error.as_ref().map(ToString::to_string);
    wrong.ended_by(error.as_ref());
    record.clean = Some(outcome == Outcome::Done && !wrong.failing());
    record.wrong = wrong;
    record.outcome = Some(outcome);
    record.ended_ns = Some(super::progress::now_ns());
    keep(context, job, &record);
    live.end();
    TargetEnd { target: target.name.clone(), outcome, fault, error }
}

/// One target's worker, started again while the budget lasts.
struct Attempts<'a> {
    context: &'a Context,
    job: &'a Job,
    target: &'a Target,
    inventory: PathBuf,
    /// For the first attempt, where they are known already.
    secrets: Option<SecretValues>,
    live: &'a mut Live,
    /// Of all workers what was warned of, of the last one what was not done.
    wrong: Wrong,
    /// The last worker's last event.
    finished: Option<Event>,
}

impl Attempts<'_> {
    async fn run(&mut self) -> (Outcome, Option<Error>) {
        let mut request =
            self.context.request(Op::Run, Context::only(self.job, self.target), Some(self.inventory.clone()));
        let mut attempts = retry::Attempts::new(self.target.retry);
        loop {
            // Asked for each time: a command may give a fresh token.
            request.secrets = match self.secrets.take() {
                Some(secrets) => secrets,
                None => match resolve::secrets(self.target).await {
                    Ok(secrets) => secrets,
                    Err(error) => return (Outcome::Failed, Some(error)),
                },
            };
            let error = match self.once(&request).await {
                Ok(end) => return end,
                Err(error) => error,
            };
            if self.context.stop.borrow().is_some() {
                return (Outcome::Stopped, Some(error));
            }
            let Some(again) = attempts.failed(&error, self.live.gained(), retry::chance()) else {
                return (Outcome::Failed, Some(error));
            };
            request.attempt += 1;
            self.say(Event::retry(None, &error, again.attempt, again.of, again.wait));
            if self.wait(again.wait).await {
                return (Outcome::Stopped, Some(error));
            }
        }
    }

    /// One worker's life. Errors: it died, and may be started again.
    async fn once(&mut self, request: &Request) -> Result<(Outcome, Option<Error>)> {
        let title = format!("offsite: {}/{}", self.job.name, self.target.name);
        let mut worker = Worker::start(request, &title, &self.context.hide).await?;
        self.live.begin(worker.pid);
        let mut stop = self.context.stop.clone();
        let mut finished = None;
        self.wrong.again();
        let (end, answer) = {
            let (context, job, target) = (self.context, self.job, self.target);
            let (live, wrong) = (&mut *self.live, &mut self.wrong);
            let on_event = |event: Event| {
                match &event {
                    Event::Notice(notice) => wrong.notice(notice),
                    Event::ImageFailed { image, failure: Some(failure), .. } => wrong.image(image, failure),
                    _ => {}
                }
                live.saw(&event);
                context.event(&job.name, Some(&target.name), &event);
                if matches!(event, Event::Finished { .. }) {
                    finished = Some(event);
                }
            };
            attend(&mut worker, Some(target), &request.secrets, &mut stop, patience(), on_event).await
        };
        if let Some(Answer::Failed(error)) = answer {
            let outcome = if error.kind == Kind::Stopped { Outcome::Stopped } else { Outcome::Failed };
            self.finished = finished;
            return Ok((outcome, Some(error)));
        }
        match finished {
            Some(event) => {
                let (outcome, error) = match &event {
                    Event::Finished { outcome, failure, .. } => (*outcome, failure.as_deref().cloned()),
                    _ => (Outcome::Failed, None),
                };
                self.finished = Some(event);
                Ok((outcome, error))
            }
            None => {
                let mut error = died(&end, &title);
                if end.stuck() {
                    // Another worker would meet the same wall, and the lock that the stuck one holds.
                    error.retry = offsite_plugin_api::Retry::Never;
                }
                Err(error)
            }
        }
    }

    fn say(&mut self, event: Event) {
        self.live.saw(&event);
        self.context.event(&self.job.name, Some(&self.target.name), &event);
    }

    /// Whether the user stopped meanwhile.
    async fn wait(&mut self, wait: Duration) -> bool {
        let mut stop = self.context.stop.clone();
        self.live.wait();
        tokio::select! {
            () = tokio::time::sleep(wait) => false,
            stopped = stop.wait_for(Option::is_some) => stopped.is_ok(),
        }
    }
}
