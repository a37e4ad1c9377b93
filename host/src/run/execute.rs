//! Carries a plan out on one target: stages in parallel, publishes in order, deletes last, writes manifests.
//!
//! `schedule` says what may happen next; the threads here do it. An image that fails takes its descendants along and
//! nothing else; an error that every further image would meet (no credentials, the source gone) ends the run
//! at a checkpoint. What finds no room makes way for what does (`room`). A set's manifest is written when its last act is
//! done, and every half minute of a long one.

mod merge;
mod publish;
mod recorded;
mod room;
mod transition;

use std::collections::{HashMap, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use offsite_plugin_api::TargetPath;

use super::call::LONG;
use super::context::Context;
use super::crew::Crew;
use super::schedule::{Schedule, Task, active};
use super::transfer::{self, Compared, FileJob};
use crate::catalog::{Upon, Was};
use crate::error::{BackendKind, Error, Kind, Result};
use crate::notice::NoticeCode;
use crate::plan::{Action, Code, FileAction, Plan, Step};
use crate::report::{self, Event};
use crate::source::{Inventory, SourceFile};
use crate::target::{self, Delete, Publish, TargetView, VerifyLevel};

/// A set that changes all the time gets a manifest this often.
const MANIFEST_EVERY: Duration = Duration::from_secs(30);

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub images: u64,
    /// Of these, those whose content the target held already.
    pub unchanged: u64,
    pub deleted: u64,
    pub failed: u64,
    /// Images that failed because the target has no room for them, or for what they build on.
    pub no_room: u64,
    /// Images that were still being written, with what comes after them: the next run takes them.
    pub left: Vec<String>,
    /// Images that wait for one that is left, failed, or cannot be read.
    pub waiting: Vec<String>,
    /// Files of the source that cannot be read: told, and no reason to call the run failed.
    pub unreadable: u64,
    pub first_error: Option<Error>,
    /// Steps of the plan that were carried out.
    pub done: HashSet<usize>,
    /// What ended the run before its end.
    pub fatal: Option<Error>,
}

/// What the plan was made from, as far as carrying it out needs it.
pub struct Material<'a> {
    pub plan: &'a Plan,
    pub view: &'a TargetView,
    /// The target said that it may not have room for all of it.
    pub tight: bool,
    files: HashMap<&'a TargetPath, &'a SourceFile>,
    inventory: &'a Inventory,
}

impl<'a> Material<'a> {
    pub fn new(plan: &'a Plan, view: &'a TargetView, inventory: &'a Inventory) -> Self {
        let files = &inventory.files;
        let wanted: HashSet<&TargetPath> = plan
            .steps
            .iter()
            .filter(|s| active(s) && s.action != Action::Delete)
            .flat_map(|s| s.files.iter().map(|f| &f.path))
            .collect();
        Self {
            plan,
            view,
            tight: false,
            files: files.iter().filter(|f| wanted.contains(&f.path)).map(|f| (&f.path, f)).collect(),
            inventory,
        }
    }

    fn was(&self, target: &TargetPath) -> Option<Was> {
        self.view.files.get(target).map(|f| Was::of(&f.entry))
    }

    fn job(&self, context: &Context, step: &Step, file: usize) -> Result<FileJob> {
        let wanted = &step.files[file];
        let source = self.files.get(&wanted.path).ok_or_else(|| {
            Error::new(Kind::Source, "the plan names a file that the scan did not see")
                .on(wanted.path.display())
        })?;
        let span = step.span.filter(|_| wanted.path == step.image);
        // Relative to the source, wherever on the target the image is: by this the next run finds its sub-folder.
        let image = step.image.clone();
        let mut job =
            FileJob::new(context, wanted, source, &step.set, image, span, self.was(&wanted.target))?;
        if wanted.path == step.image {
            // An image without a parent that merged others is a base that took in what lay above it, highest first.
            let merge = step.merge.as_ref().filter(|_| step.merged && step.parent.is_none());
            let took_in = merge.and_then(|m| m.images.first()).cloned();
            job.upon = Upon { parent: step.parent.clone(), merged: step.merged, took_in };
        }
        job.mount = self.inventory.mount(&wanted.path).cloned();
        Ok(job)
    }
}

/// A file of a unit that is ready.
enum Ready {
    Publish(Box<Publish>),
    /// It was there already, and is recorded.
    Adopted(VerifyLevel),
    /// It is there and could not be read back: nothing is known of it, and it stays.
    Unread(Error),
}

struct State {
    schedule: Schedule,
    ready: HashMap<(usize, usize), Ready>,
    /// Intents written down ahead, by (step, file).
    announced: HashMap<(usize, usize), i64>,
    /// Sets whose manifest is being written, and when it was last.
    writing: HashSet<String>,
    written: HashMap<String, Instant>,
    /// Sets of which something is to be deleted: why their manifest is not up to date, where it could not be written.
    recorded: HashMap<String, Option<Error>>,
    /// What was replaced so far.
    changes: merge::Changes,
    crew: Crew,
    /// Bytes of files that are being staged.
    under_way: u64,
    /// Images that could not be read back, and one of them.
    unread: (u64, String),
    summary: Summary,
}

struct Executor<'a> {
    context: &'a Context,
    material: &'a Material<'a>,
    state: Mutex<State>,
    changed: Condvar,
}

/// Does everything the plan says. Errors are in the summary; a stop is its `fatal`.
pub fn execute(context: &Context, material: &Material<'_>) -> Summary {
    let plan = material.plan;
    let schedule = Schedule::new(plan);
    let active: u64 = plan.steps.iter().filter(|s| active(s)).count() as u64;
    context.line.meter.plan(plan.totals.bytes, active);
    let summary = skips(context, plan);
    let files: usize = schedule.units.iter().map(|u| u.files.len().max(1)).sum();
    let threads = (context.streams.max(1) as usize).min(files).max(1);
    let executor = Executor {
        context,
        material,
        state: Mutex::new(State {
            schedule,
            ready: HashMap::new(),
            announced: HashMap::new(),
            writing: HashSet::new(),
            written: HashMap::new(),
            recorded: HashMap::new(),
            changes: merge::Changes::default(),
            crew: Crew::new(Instant::now(), threads, context.streams_fixed),
            under_way: 0,
            unread: (0, String::new()),
            summary,
        }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        // The calling thread is one of them: a run with one file needs no other.
        for number in 1..threads {
            let name = format!("stream-{number}");
            let work = || executor.work(scope, true);
            if std::thread::Builder::new().name(name).spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        executor.work(scope, true);
    });
    executor.withdraw_all();
    executor.tell_room(&executor.lock());
    let mut state = executor.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let (number @ 1.., example) = &state.unread {
        let text = format!(
            "{} on the target could not be read back, '{example}' for one: {they} not verified, and kept as {they}",
            report::count(*number, "image"),
            they = report::word(*number, "it is", "they are")
        );
        context.line.outbox.notice(NoticeCode::UnreadableTarget, text);
    }
    if let Err(error) = transition::finish(context, material, &state.summary.done) {
        state.summary.fatal.get_or_insert(error);
    }
    if state.summary.fatal.is_none() && context.line.stop.is_set() {
        state.summary.fatal = Some(super::stop::stopped());
    }
    if state.summary.fatal.is_none() {
        for unit in state.schedule.stranded() {
            let step = &plan.steps[state.schedule.units[unit].steps[0]];
            let error =
                Error::new(Kind::State, "the plan's steps wait for each other").on(step.image.display());
            report_failed(context, &mut state.summary, step, &error);
        }
    }
    state.summary
}

/// Tells of what is left out for a reason that a user may want to act on. What is simply there already is not told. Gives
/// what is left for the next run.
fn skips(context: &Context, plan: &Plan) -> Summary {
    use Code::{
        ChangedUnproven, Damaged, Held, NotAnImage, NotSettled, OverDeleteLimit, Protected, Refused,
        Retained, Unknown, Unproven, Unreadable, Waiting,
    };
    let told = [
        ChangedUnproven,
        NotAnImage,
        Damaged,
        Held,
        NotSettled,
        OverDeleteLimit,
        Protected,
        Refused,
        Retained,
        Unknown,
        Unproven,
        Unreadable,
        Waiting,
    ];
    let mut summary = Summary::default();
    for step in plan.steps.iter().filter(|s| s.action == Action::Skip && told.contains(&s.code)) {
        match step.code {
            NotSettled => summary.left.push(step.image.display().into_owned()),
            Waiting => summary.waiting.push(step.image.display().into_owned()),
            Unreadable => {
                summary.unreadable += 1;
                let error = Error::new(Kind::Source, "the source file cannot be read")
                    .because(&step.reason)
                    .hint("make it readable for the user that runs offsite, or name it in ignore");
                context.line.outbox.event(Event::image_failed(step.image.display().into_owned(), &error));
                continue;
            }
            _ => {}
        }
        context.line.outbox.event(Event::Skipped {
            image: step.image.display().into_owned(),
            code: code_name(step.code),
            reason: step.reason.to_string(),
        });
    }
    summary
}

fn code_name(code: Code) -> String {
    serde_json::to_value(code).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn report_failed(context: &Context, summary: &mut Summary, step: &Step, error: &Error) {
    summary.failed += 1;
    summary.first_error.get_or_insert_with(|| error.clone());
    context.line.outbox.event(Event::image_failed(step.image.display().into_owned(), error));
}

/// A file that the backup product changed meanwhile is no failure of the run: it is left, as one that was not settled.
fn report_left(context: &Context, summary: &mut Summary, step: &Step, error: &Error) {
    let image = step.image.display().into_owned();
    let why = super::meter::bounded(&error.without_hint());
    context.line.outbox.event(Event::Skipped {
        image: image.clone(),
        code: "changed-meanwhile".to_owned(),
        reason: format!("it changed while it was being replicated; the next run takes it ({why})"),
    });
    summary.left.push(image);
}

/// Whether every further image would meet the same error.
fn fatal(error: &Error) -> bool {
    match &error.kind {
        Kind::Stopped | Kind::State | Kind::Config | Kind::TargetRefused | Kind::Plugin => true,
        Kind::Backend(kind) => matches!(
            kind,
            BackendKind::Unauthenticated
                | BackendKind::UntrustedPeer
                | BackendKind::Unreachable
                | BackendKind::Offline
                | BackendKind::ReadOnly
                | BackendKind::InvalidConfig
                | BackendKind::Panicked
        ),
        _ => false,
    }
}

impl Executor<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is to be done until nothing is. A helper (`large` is false) takes small tasks, and leaves when there is
    /// none.
    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, large: bool) {
        loop {
            let mut state = self.lock();
            let task = loop {
                if self.context.line.stop.is_set() {
                    state.schedule.stop();
                }
                let State { schedule, writing, .. } = &mut *state;
                let blocked = |set: &str| writing.contains(set);
                let task = if large { schedule.next(blocked) } else { schedule.next_small(blocked) };
                if task != Task::Wait || !large {
                    break task;
                }
                // Woken by whatever another thread does; the time only bounds how late a stop is seen.
                let waited = self.changed.wait_timeout(state, Duration::from_millis(200));
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            };
            if matches!(task, Task::Wait | Task::End) {
                if !large {
                    state.crew.leaves();
                }
                break;
            }
            let ready = state.schedule.small_ready();
            let joins = state.crew.joins(Instant::now(), ready);
            drop(state);
            if joins {
                self.help(scope);
            }
            match task {
                Task::Stage { unit, file } => self.stage(unit, file),
                Task::Act { unit } => self.act(unit),
                Task::Wait | Task::End => {}
            }
            self.changed.notify_all();
        }
        self.changed.notify_all();
    }

    fn help<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let work = || self.work(scope, false);
        if std::thread::Builder::new().name("helper".to_owned()).spawn_scoped(scope, work).is_err() {
            self.lock().crew.leaves();
        }
    }

    fn stage(&self, unit: usize, file: usize) {
        let ((step, at), streams) = {
            let state = self.lock();
            let most = u64::from(self.context.streams.max(1));
            let share = (most / (state.schedule.files_open() as u64).clamp(1, most)).max(1);
            (state.schedule.units[unit].files[file], u32::try_from(share).unwrap_or(1))
        };
        let result = self.stage_file(step, at, streams);
        let mut state = self.lock();
        match result {
            Ok(ready) => {
                if state.schedule.units[unit].standing == super::schedule::Standing::SetAside {
                    // Another file of it found no room: this one makes way, too.
                    self.drop_staged(step, at);
                } else {
                    state.ready.insert((step, at), ready);
                }
                state.schedule.staged(unit);
            }
            Err(error) => self.fail(&mut state, unit, step, &error, false),
        }
    }

    fn stage_file(&self, step_number: usize, at: usize, streams: u32) -> Result<Ready> {
        let step = &self.material.plan.steps[step_number];
        let (context, file) = (self.context, &step.files[at]);
        let job = self.material.job(context, step, at)?;
        if file.action == FileAction::Adopt {
            match transfer::adopt(context, &job)? {
                Compared::Same(level) => return Ok(Ready::Adopted(level)),
                Compared::Unread(error) => return Ok(Ready::Unread(error)),
                Compared::Differs => {}
            }
        }
        let name = step.image.display().into_owned();
        let _under_way = self.room_for(&job)?;
        context.line.meter.begin_image(&name);
        context.line.outbox.event(Event::Image { image: name, bytes: file.bytes });
        let staged = transfer::stage(context, &job, streams);
        if staged.as_ref().is_err_and(room::none) {
            self.drop_staged(step_number, at);
        }
        staged.map(|p| Ready::Publish(Box::new(p)))
    }

    fn act(&self, unit: usize) {
        let (steps, deletes, set) = {
            let state = self.lock();
            let unit = &state.schedule.units[unit];
            (unit.steps.clone(), unit.deletes, unit.set.clone())
        };
        if let Some(error) = self.not_recorded(&steps).filter(|_| deletes) {
            let mut state = self.lock();
            match error.kind {
                Kind::Stopped => self.fail(&mut state, unit, steps[0], &error, true),
                _ => self.hold(&mut state, unit, &error),
            }
            return;
        }
        let mut unproved = Vec::new();
        let result = if deletes {
            self.delete(&steps).map(|level| (level, HashSet::new(), HashSet::new()))
        } else {
            self.begin(unit).and_then(|()| self.publish(unit, &steps, &mut unproved))
        };
        let mut state = self.lock();
        match result {
            Err(error) => self.fail(&mut state, unit, steps[0], &error, true),
            Ok((level, unread, sent)) => {
                for step in steps.iter().filter(|step| !unread.contains(step)) {
                    state.summary.done.insert(*step);
                    let image = self.material.plan.steps[*step].image.display().into_owned();
                    self.context.line.meter.end_image();
                    if deletes {
                        state.summary.deleted += 1;
                        self.context.line.outbox.event(Event::Deleted { image });
                    } else {
                        state.summary.images += 1;
                        let bytes = self.material.plan.steps[*step].bytes;
                        let level = level_name(level);
                        let unchanged = !sent.contains(step);
                        state.summary.unchanged += u64::from(unchanged);
                        self.context.line.outbox.event(Event::Published { image, bytes, level, unchanged });
                    }
                }
                // Before what comes after it may begin.
                for (step, proof) in unproved {
                    self.spare(&mut state, unit, step, proof);
                }
                for step in unread {
                    self.spare_after_unread(&mut state, unit, step);
                }
                let of_set = state.schedule.acted(unit);
                let last = *state.written.entry(set.to_string()).or_insert_with(Instant::now);
                let due = of_set.left == 0 || last.elapsed() >= MANIFEST_EVERY;
                if due && of_set.acting == 0 && state.writing.insert(set.clone()) {
                    drop(state);
                    self.manifest(&set);
                }
            }
        }
    }

    /// Nobody changes the set's records meanwhile. A manifest that cannot be written now is written at the run's end.
    fn manifest(&self, set: &str) {
        let call = self.context.line.call(Some(LONG));
        if let Err(error) = target::manifest::write_set(&self.context.site(&call), set) {
            let text =
                format!("the manifest of {set} could not be written; it is tried again at the end: {error}");
            self.context.line.outbox.notice(NoticeCode::ManifestBehind, super::meter::bounded(&text));
        }
        let mut state = self.lock();
        state.writing.remove(set);
        state.written.insert(set.to_owned(), Instant::now());
    }

    fn delete(&self, steps: &[usize]) -> Result<VerifyLevel> {
        for step in steps {
            let step = &self.material.plan.steps[*step];
            let mut files = Vec::new();
            for file in step.files.iter().filter(|f| f.action == FileAction::Delete) {
                // What the listing did not show is not deleted.
                if let Some(was) = self.material.was(&file.target) {
                    files.push(Delete { path: file.target.clone(), was });
                }
            }
            let name = step.image.display().into_owned();
            self.context.retried(Some(&name), &|| 0, || {
                let call = self.context.line.call(Some(LONG));
                target::delete_files(&self.context.site(&call), &step.set, &files)
            })?;
        }
        Ok(VerifyLevel::Size)
    }

    fn fail(&self, state: &mut State, unit: usize, step: usize, error: &Error, acting: bool) {
        let plan = self.material.plan;
        if room::none(error)
            && (self.make_way(state, unit, step, acting) || self.one_by_one(state, unit, acting))
        {
            return;
        }
        let known = state.schedule.units[unit].standing == super::schedule::Standing::Failed;
        let taken = state.schedule.failed(unit, acting);
        self.withdraw(state, &taken);
        let mut fatal = fatal(error).then(|| error.clone());
        if error.is_backend(&BackendKind::SourceChanged)
            && let Err(gone) = self.context.root.still_there()
        {
            fatal = Some(gone);
        }
        if error.kind != Kind::Stopped && !known {
            let step = &plan.steps[step];
            let left = error.is_backend(&BackendKind::SourceChanged);
            let (code, which) = if left {
                report_left(self.context, &mut state.summary, step, error);
                ("waits-for-changed", "is left for the next run")
            } else if error.is_backend(&BackendKind::Retained) {
                // A lock that the listing did not show: a run after its end does what has to wait.
                self.context.line.outbox.event(Event::Skipped {
                    image: step.image.display().into_owned(),
                    code: code_name(Code::Retained),
                    reason: format!(
                        "the target keeps it locked: {}",
                        super::meter::bounded(&error.without_hint())
                    ),
                });
                ("waits-for-retained", "is locked on the target")
            } else if room::none(error) {
                report_failed(self.context, &mut state.summary, step, error);
                state.summary.failed -= 1;
                state.summary.no_room += 1;
                ("waits-for-failed", "did not fit on the target")
            } else {
                report_failed(self.context, &mut state.summary, step, error);
                ("waits-for-failed", "failed")
            };
            for after in taken.iter().flat_map(|u| &state.schedule.units[*u].steps) {
                let image = plan.steps[*after].image.display().into_owned();
                self.context.line.outbox.event(Event::Skipped {
                    image: image.clone(),
                    code: code.to_owned(),
                    reason: format!("it comes after '{}', which {which}", step.image.display()),
                });
                state.summary.waiting.push(image);
            }
        }
        if let Some(fatal) = fatal {
            state.summary.fatal.get_or_insert(fatal);
            state.schedule.stop();
            // What is in flight ends at its last checkpoint.
            self.context.line.stop.set();
        }
    }
}

fn level_name(level: VerifyLevel) -> String {
    serde_json::to_value(level).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}
