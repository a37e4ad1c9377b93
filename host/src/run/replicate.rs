//! One target's run, from the claim to the last manifest.
//!
//! The order is the laws': the target is claimed, what a kill left is settled before anything is interpreted, the
//! listing is joined with what is known, the plan is made, debris that the plan does not resume is swept, and only then
//! does anything change.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use offsite_plugin_api::{Backend, Capabilities, TargetPath};

use super::call::{LONG, Line, SHORT};
use super::context::{Context, retried};
use super::execute::{Material, Summary, execute};
use super::open::{Answers, Open, open};
use super::protocol::{Answer, Request};
use super::source_reader::SourceRoot;
use super::stop::Stop;
use super::{crew, ending, left, scan_worker, transfer, verify};
use crate::catalog::{Catalog, PublishStep};
use crate::chain::{Chains, Knowledge, assemble};
use crate::config::Target;
use crate::error::{BackendKind, Error, Kind, Result};
use crate::notice::NoticeCode;
use crate::plan::{self, Baseline, FileAction, Input, Names, Plan};
use crate::report::{Event, Outcome, TEXT, count, word};
use crate::source::Inventory;
use crate::target::{self, Reopen, Site, Survey, Who, manifest, marker, sweep};

/// What connections get to end.
const CLOSE: Duration = Duration::from_secs(2);

/// Replicates to the request's target; everything is told in events. Errors: only where a fresh process should try
/// again (a plugin that panicked); all others are told, too.
pub fn run(request: &Request, line: &Line, answers: &Arc<Answers>) -> Result<()> {
    line.outbox.event(Event::Started { pid: std::process::id() });
    let end = Arc::new(Stop::default());
    let reporter = {
        let (meter, outbox, end) = (line.meter.clone(), line.outbox.clone(), end.clone());
        std::thread::spawn(move || meter.report(outbox, end))
    };
    let result = replicate(request, line, answers);
    end.set();
    let _ = reporter.join();
    let summary = match result {
        Ok(summary) => summary,
        Err(error) => Summary { fatal: Some(error), ..Summary::default() },
    };
    if let Some(error) = &summary.fatal
        && error.is_backend(&BackendKind::Panicked)
    {
        return Err(error.clone());
    }
    tell_end(line, &summary);
    Ok(())
}

fn tell_end(line: &Line, summary: &Summary) {
    let outcome = match &summary.fatal {
        Some(error) if error.kind == Kind::Stopped => Outcome::Stopped,
        Some(_) => Outcome::Failed,
        None if summary.failed > 0 => Outcome::Failed,
        // A target that had room for nothing failed; where something was done, the notice says that not all was.
        None if summary.no_room > 0 && summary.images + summary.deleted == 0 => Outcome::Failed,
        None => Outcome::Done,
    };
    let error = summary.fatal.as_ref().or(summary.first_error.as_ref());
    line.outbox.event(Event::Finished {
        outcome,
        sent_bytes: line.meter.sent(),
        images: summary.images,
        unchanged: summary.unchanged,
        deleted: summary.deleted,
        failed: summary.failed + summary.no_room + summary.unreadable,
        left: (summary.left.len() + summary.waiting.len()) as u64,
        error: error.map(ToString::to_string),
        failure: error.map(|error| Box::new(error.bounded(TEXT))),
    });
    if let Some(error) = &summary.fatal {
        line.outbox.answer(Answer::Failed(error.clone()));
    }
}

fn replicate(request: &Request, line: &Line, answers: &Arc<Answers>) -> Result<Summary> {
    let target = request.target()?;
    plan::validate(&target.plan)?;
    let inventory = inventory(request)?;
    let root =
        Arc::new(SourceRoot::open(&inventory.root, inventory.device, inventory.inode).map_err(source)?);
    let open = open(request, line, answers, true)?;
    let result = on_target(request, target, line, &open, &inventory, root, &now_ns);
    open.backend.close(CLOSE);
    super::left_to_the_exit(inventory);
    result
}

fn source(error: offsite_plugin_api::Error) -> Error {
    Error::new(Kind::Source, "the source cannot be read").because(error)
}

/// The scan's result.
pub fn inventory(request: &Request) -> Result<Inventory> {
    let path = request
        .inventory
        .as_deref()
        .ok_or_else(|| Error::new(Kind::Usage, "the worker was not told where the inventory is"))?;
    scan_worker::read(path)
}

/// `now_ns`: the time, nanoseconds since the Unix epoch.
pub(crate) fn on_target(
    request: &Request,
    target: &Target,
    line: &Line,
    open: &Open,
    inventory: &Inventory,
    root: Arc<SourceRoot>,
    now_ns: &dyn Fn() -> i64,
) -> Result<Summary> {
    let capabilities = open.capabilities(target.retry)?;
    target::replaceable(&capabilities)?;
    let slow = crew::slow(&target.bandwidth);
    let context = Context {
        backend: open.backend.clone(),
        method: verify::choose(target.verify, &capabilities)?,
        size_suffices: target.verify == crate::config::Verify::Size,
        catalog: open.catalog.clone(),
        line: line.clone(),
        installation: request.installation.clone(),
        retry: target.retry,
        streams: target.streams.unwrap_or_else(|| crew::streams(capabilities.streams, slow)),
        streams_fixed: target.streams.is_some() || slow,
        capabilities,
        root,
        cache: Arc::default(),
        interruptions: AtomicU64::default(),
    };
    // The source's chains are assembled while the target is listed.
    let (survey, source) = std::thread::scope(|scope| {
        let chains = scope.spawn(|| assemble(&inventory.members(), &Knowledge::default()));
        let survey = prepare(&context, request, target, inventory);
        (survey, chains.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let mut survey = survey?;
    let baseline = baseline(&context, target, &source, inventory, &survey, now_ns())?;
    let input = input(target, inventory, &source, &survey, baseline.as_ref(), &context.capabilities);
    let names = names(request);
    let plan = plan::plan(&Input { names: &names, now_ns: now_ns(), ..input });
    tell_plan(line, &plan);
    let tight = tell_space(&context, plan.totals.bytes);
    line.stop.proceed()?;
    remember_deletes(&context.catalog, &survey, &plan)?;
    clean(&context, &survey, &plan)?;
    context.catalog.link(&plan.links)?;
    let mut material = Material::new(&plan, &survey.view, inventory);
    material.tight = tight;
    let mut summary = execute(&context, &material);
    drop(material);
    // Also after a failure: what was published is recorded on the target. Not after a stop: the next run does it.
    if !line.stop.is_set() {
        let view = std::mem::take(&mut survey.view);
        ending::remember(&context, inventory, &source, &plan, view, &summary.done)?;
        let call = line.call(Some(LONG));
        let written =
            retried(line, target.retry, None, &|| 0, || manifest::write_behind(&context.site(&call)));
        match written {
            Ok(done) => {
                for (set, error) in done.failed {
                    let text = format!(
                        "the manifest of {set} could not be written: {error}; the next run tries again"
                    );
                    line.outbox.notice(NoticeCode::ManifestDamaged, text);
                }
            }
            Err(error) => drop(summary.fatal.get_or_insert(error)),
        }
        for notice in left::remember(&context.catalog, &summary.left, &summary.waiting, now_ns())? {
            line.outbox.event(notice);
        }
        context.catalog.tidy()?;
    }
    super::left_to_the_exit((survey, source, plan));
    Ok(summary)
}

/// Claim, settle, gather: what must be true before anything is planned.
fn prepare(context: &Context, request: &Request, target: &Target, inventory: &Inventory) -> Result<Survey> {
    let line = &context.line;
    let act = |what: &mut dyn FnMut(&Site<'_>) -> Result<()>| {
        context.retried(None, &|| 0, || what(&context.site(&line.call(Some(LONG)))))
    };
    let mut claimed = false;
    let who = who(request, target);
    act(&mut |site| {
        claimed |= marker::claim(site, &who)?;
        Ok(())
    })?;
    if claimed {
        line.outbox.event(Event::Settled { what: "the target is claimed by this job".to_owned() });
    }
    let reopen = |step: &PublishStep| {
        let file = step.source.as_ref().and_then(|path| inventory.file(path));
        transfer::reopen(&context.root, &context.cache, file, &step.record)
    };
    let reopen: Reopen<'_> = &reopen;
    let mut stuck = Vec::new();
    act(&mut |site| {
        let settled = target::settle(site, reopen)?;
        for what in settled.said {
            line.outbox.event(Event::Settled { what });
        }
        stuck = settled.stuck;
        Ok(())
    })?;
    let mut surveyed = None;
    act(&mut |site| {
        let found = target::survey(site)?;
        let put_right = sweep::sides(site, &found)?;
        surveyed = Some(if put_right.is_empty() { found } else { target::survey(site)? });
        for what in put_right {
            line.outbox.event(Event::Settled { what });
        }
        Ok(())
    })?;
    let mut survey = surveyed.ok_or_else(|| Error::new(Kind::State, "the target was not listed"))?;
    target::remember(&context.catalog, &survey.learned)?;
    if target.plan.accept_unproven {
        let mut accepted = false;
        act(&mut |site| {
            accepted = target::accept_changed(site, &survey.view)?;
            Ok(())
        })?;
        if accepted {
            act(&mut |site| {
                survey = target::survey(site)?;
                Ok(())
            })?;
        }
    }
    survey.view.stuck = stuck;
    if !survey.view.parents_known {
        context.catalog.learn_parents(&target::proof::links(&survey.view))?;
    }
    for notice in &survey.notices {
        line.outbox.event(Event::Notice(notice.clone()));
    }
    Ok(survey)
}

/// The baseline in force. Where a policy takes effect with this run, it is taken now and kept here and on the target.
fn baseline(
    context: &Context,
    target: &Target,
    source: &Chains,
    inventory: &Inventory,
    survey: &Survey,
    now_ns: i64,
) -> Result<Option<Baseline>> {
    let Some(policy) = target.plan.policy else { return Ok(None) };
    if let Some(known) = target::baseline(&context.catalog, &survey.learned, policy)? {
        return Ok(Some(known));
    }
    let taken = Baseline::take(source, inventory, now_ns);
    context.catalog.set_baseline(policy, &taken)?;
    context.retried(None, &|| 0, || {
        let call = context.line.call(Some(LONG));
        manifest::write_baseline(&context.site(&call), policy, &taken).map(|_| ())
    })?;
    Ok(Some(taken))
}

/// As which this run claims the target.
pub fn who(request: &Request, target: &Target) -> Who {
    Who::new(&request.state_dir, &request.host, &request.job.name, &target.name)
}

pub fn names(request: &Request) -> Names {
    Names { job: request.job.name.clone(), host: request.host.clone() }
}

/// The planner's input; `names` are to be filled in.
pub fn input<'a>(
    target: &'a Target,
    inventory: &'a Inventory,
    source: &'a Chains,
    survey: &'a Survey,
    baseline: Option<&'a Baseline>,
    capabilities: &'a Capabilities,
) -> Input<'a> {
    static NOBODY: std::sync::LazyLock<Names> = std::sync::LazyLock::new(Names::default);
    Input {
        inventory,
        source,
        target: &survey.view,
        options: &target.plan,
        baseline,
        capabilities,
        names: &NOBODY,
        now_ns: now_ns(),
    }
}

fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// Keeps what the plan found of deletions that it does not do.
fn remember_deletes(catalog: &Catalog, survey: &Survey, plan: &Plan) -> Result<()> {
    let plan::Remember { found, held, dropped } = &plan.remember;
    let known = &survey.view.deletes;
    let bound = |path: &TargetPath| {
        let recorded = survey.view.files.get(path).and_then(|f| f.recorded.as_ref());
        recorded.map(|r| (path.clone(), target::Bound::of(r)))
    };
    let held: Vec<_> = held.iter().filter_map(bound).collect();
    if found.is_empty() && dropped.is_empty() && held.iter().map(|(p, b)| (p, b)).eq(&known.held) {
        return Ok(());
    }
    catalog.remember_deletes(found, now_ns(), &held, dropped)
}

fn tell_plan(line: &Line, plan: &Plan) {
    let t = plan.totals;
    line.outbox.event(Event::Planned {
        copy: t.copy,
        replace: t.replace,
        delete: t.delete,
        skip: t.skip,
        bytes: t.bytes,
    });
    for notice in &plan.notices {
        line.outbox.event(Event::Notice(notice.clone()));
    }
}

/// Says beforehand that the room will not do, where the target knows. No reason to stop: what fits is a gain, replaced files
/// give room back, and the target refuses what does not fit. Answers whether it said so.
fn tell_space(context: &Context, needed: u64) -> bool {
    let line = &context.line;
    let Ok(space) = context.backend.space(&line.call(Some(SHORT))) else { return false };
    if let Some(free) = space.free.filter(|free| *free < needed) {
        let (needed, free) = (crate::report::bytes(needed), crate::report::bytes(free));
        let text =
            format!("{needed} are to be sent and {free} are free on the target: not all of it may fit");
        line.outbox.notice(NoticeCode::Space, text);
        return true;
    }
    false
}

/// Sweeps what this plan does not go on with. What cannot be swept now is no reason not to replicate.
fn clean(context: &Context, survey: &Survey, plan: &Plan) -> Result<()> {
    let wanted: BTreeSet<&TargetPath> = plan
        .steps
        .iter()
        .flat_map(|s| &s.files)
        .filter(|f| matches!(f.action, FileAction::Copy | FileAction::Replace | FileAction::Adopt))
        .map(|f| &f.target)
        // Still to be settled: what is staged for it is published then.
        .chain(survey.view.stuck.iter().flat_map(|stuck| &stuck.paths))
        .collect();
    let line = &context.line;
    let call = line.call(Some(LONG));
    let swept = match sweep::sweep(&context.site(&call), survey, &|path| wanted.contains(path)) {
        Ok(swept) => swept,
        Err(error) => {
            line.stop.proceed()?;
            if error.is_backend(&BackendKind::Panicked) || error.kind == Kind::State {
                return Err(error);
            }
            let text = format!("remains of earlier runs could not be removed: {error}");
            line.outbox.notice(NoticeCode::NotSwept, text);
            return Ok(());
        }
    };
    if swept.discarded > 0 {
        let what = format!(
            "{} that nothing goes on with ({}) {} discarded",
            count(swept.discarded, "staged file"),
            crate::report::bytes(swept.discarded_bytes),
            word(swept.discarded, "was", "were")
        );
        line.outbox.event(Event::Settled { what });
    }
    for what in swept.said {
        line.outbox.event(Event::Settled { what });
    }
    if !swept.foreign.is_empty() {
        let bytes: u64 = swept.foreign.iter().map(|f| f.bytes).sum();
        let number = swept.foreign.len() as u64;
        let text = format!(
            "{} of another installation ({}) {} on the target: left alone",
            count(number, "unfinished upload"),
            crate::report::bytes(bytes),
            word(number, "is", "are")
        );
        line.outbox.notice(NoticeCode::ForeignStaging, text);
    }
    Ok(())
}

/// For operations without a run: the target as it is, and what a run would settle first.
pub fn look(
    backend: &dyn Backend,
    catalog: &Catalog,
    capabilities: &Capabilities,
    line: &Line,
    installation: &str,
) -> Result<Survey> {
    let call = line.call(Some(LONG));
    target::survey(&Site { backend, catalog, capabilities, call: &call, installation })
}
