//! The acts that change what is visible on a target: publish, replace, delete, alone or together, each under an intent
//! that was written down durably before; and settling what a kill left of them.
//!
//! Every act may be killed between any two calls and repeated: an act first settles what an earlier attempt left of it.
//! Settling looks at the names and finishes what began to show (a group's rest, an open swap), or undoes what did not;
//! staged bytes of an undone publish stay staged and are published without being sent again.

use std::sync::Arc;

use offsite_plugin_api::{Attributes, Digest, ErrorKind, Expect, Source, TargetPath, Token};

use super::site::{Reopen, Site, of_target};
use super::small::Unreadable;
use super::swap::{self, State};
use super::{Recorded, VerifyLevel, manifest};
use crate::catalog::{Intent, IntentKind, IntentStep, PublishStep, Published, Upon, Was};
use crate::chain::Span;
use crate::error::{BackendKind, Error, Kind, Result};
use crate::run::killpoint;

/// One staged and verified file, ready to become visible.
#[derive(Clone)]
pub struct Publish {
    /// On the target.
    pub path: TargetPath,
    /// Relative to the source's root.
    pub source_path: TargetPath,
    pub token: Token,
    pub staging: TargetPath,
    pub attributes: Attributes,
    /// Of the whole file; a server that checks one refuses a mismatch.
    pub digests: Vec<Digest>,
    /// What has the name, as planned: `None` for nothing.
    pub before: Option<Was>,
    /// What to record: size and hash are the file's own; version and time of the target are filled in here.
    pub record: Recorded,
    /// The run that the image holds, with its anchor.
    pub span: Option<Span>,
    /// With the anchor: what it builds on.
    pub upon: Upon,
    /// How often the run had lost sight of the target when these bytes were staged and proved.
    pub seen: u64,
    /// For backends that send small objects only now.
    pub source: Arc<dyn Source>,
}

/// One file to delete, as it was planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    pub path: TargetPath,
    pub was: Was,
}

/// Makes one new file visible and records it. `before` of the file is `None`; its staging is in the catalog
/// ([`crate::catalog::Catalog::begin_staging`]), complete, and is dropped with the record.
///
/// Errors: `Backend(Exists)` or `Backend(PreconditionFailed)` when something has the name; `Verify` when what was
/// published has the wrong size; the backend's own. After an error call it again, or [`settle`]: both are safe.
pub fn publish_file(site: &Site<'_>, file: &Publish) -> Result<Recorded> {
    let mut records = publish_all(site, IntentKind::Publish, std::slice::from_ref(file))?;
    Ok(records.pop().expect("one file gives one record"))
}

/// Replaces one file by its new content and records it: in one act, or by the journalled swap. Errors as
/// [`publish_file`].
pub fn replace_file(site: &Site<'_>, file: &Publish) -> Result<Recorded> {
    let mut records = publish_all(site, IntentKind::Replace, std::slice::from_ref(file))?;
    Ok(records.pop().expect("one file gives one record"))
}

/// Publishes or replaces the files of one set, in this order (ancestors first), under one intent: until it closes, the
/// set is in transition. All of them are staged and verified. Errors as [`publish_file`]; what was done by then stays
/// done and recorded.
pub fn publish_group(site: &Site<'_>, files: &[Publish]) -> Result<Vec<Recorded>> {
    publish_all(site, IntentKind::Group, files)
}

fn publish_all(site: &Site<'_>, kind: IntentKind, files: &[Publish]) -> Result<Vec<Recorded>> {
    let reopen = |step: &PublishStep| {
        files.iter().find(|f| f.path == step.path && f.token == step.token).map(|f| f.source.clone())
    };
    for file in files {
        for intent in site.catalog.intents_at(&file.path)? {
            settle_one(site, &intent, &reopen)?;
        }
    }
    let mut steps = Vec::new();
    let mut records = Vec::new();
    for (index, file) in files.iter().enumerate() {
        if let Some(record) = already(site, file)? {
            records.push((index, record));
            continue;
        }
        expected(site, file)?;
        steps.push((index, step_of(site, file)?));
    }
    let Some((_, first)) = steps.first() else { return Ok(records.into_iter().map(|(_, r)| r).collect()) };
    let set = first.record.set.clone();
    let bodies: Vec<IntentStep> =
        steps.iter().map(|(_, step)| IntentStep::Publish(Box::new(step.clone()))).collect();
    let id = site.catalog.begin_intent(kind, &set, &bodies)?;
    for (number, (index, step)) in steps.iter().enumerate() {
        match swap::act(site, step, files[*index].source.clone()) {
            Ok(entry) => records.push((*index, record(site, id, number as i64, step, &entry)?)),
            Err(error) => {
                // A swap that failed half way is put right now if the target still answers; if not, the next run begins
                // with it. A change whose answer was lost is a success.
                if let Some(intent) = site.catalog.intents()?.into_iter().find(|i| i.id == id) {
                    let _ = settle_one(site, &intent, &reopen);
                }
                let done: Result<Option<Vec<Recorded>>> = files.iter().map(|f| already(site, f)).collect();
                return done.ok().flatten().ok_or_else(|| explained(site, &step.path, error));
            }
        }
    }
    records.sort_by_key(|(index, _)| *index);
    Ok(records.into_iter().map(|(_, record)| record).collect())
}

/// A server refuses a name that something else has in its own words, which tell nobody what to do.
pub(super) fn explained(site: &Site<'_>, path: &TargetPath, error: Error) -> Error {
    if of_target(&error) {
        return error;
    }
    match site.file(path) {
        Err(taken) if taken.is_backend(&BackendKind::Exists) => taken,
        Ok(Some(_)) if error.is_backend(&BackendKind::Exists) => {
            unexpected(path, BackendKind::Exists, "there is a file that was not there")
        }
        _ => error,
    }
}

/// Whether an earlier attempt at exactly this was completed: recorded with this content, its staging was dropped in the
/// same transaction, and the name holds what was recorded. A record alone may be an older publish's, of a file that went
/// from the target since and whose repair failed.
pub(super) fn already(site: &Site<'_>, file: &Publish) -> Result<Option<Recorded>> {
    if site.catalog.staged_at(&file.path)?.is_some() {
        return Ok(None);
    }
    let same =
        |r: &Recorded| r.blake3.is_some() && r.blake3 == file.record.blake3 && r.size == file.record.size;
    let Some(record) = site.catalog.published_at(&file.path)?.filter(same) else { return Ok(None) };
    let there = site.file(&file.path)?.is_some_and(|entry| !record.touched(&entry));
    Ok(there.then_some(record))
}

/// What has the name is what was planned. A server that compares by itself is not asked twice; nor is one that replaces in
/// one act where nothing is expected: its publish refuses an existing name (the contract of `Expect::Absent`).
pub(super) fn expected(site: &Site<'_>, file: &Publish) -> Result<()> {
    let atomic = site.capabilities.replace == offsite_plugin_api::Replace::Atomic;
    let compares = match &file.before {
        None => true,
        Some(was) => site.capabilities.conditional_publish && was.version.is_some(),
    };
    if atomic && compares {
        return Ok(());
    }
    let found = site.file(&file.path)?;
    match (&file.before, &found) {
        (None, None) => Ok(()),
        (Some(was), Some(entry)) if was.still(entry) => Ok(()),
        (None, Some(_)) => {
            Err(unexpected(&file.path, BackendKind::Exists, "there is a file that was not there"))
        }
        (Some(_), None) => {
            Err(unexpected(&file.path, BackendKind::PreconditionFailed, "the file to be replaced is gone"))
        }
        (Some(_), Some(_)) => {
            Err(unexpected(&file.path, BackendKind::PreconditionFailed, "the file was changed meanwhile"))
        }
    }
}

fn unexpected(path: &TargetPath, kind: BackendKind, why: &str) -> Error {
    Error::new(Kind::Backend(kind), "the target is not as planned")
        .on(path.display())
        .because(why)
        .hint("the next run plans anew")
}

pub(super) fn step_of(site: &Site<'_>, file: &Publish) -> Result<PublishStep> {
    Ok(PublishStep {
        path: file.path.clone(),
        source: Some(file.source_path.clone()),
        token: file.token.clone(),
        staging: file.staging.clone(),
        attributes: file.attributes.clone(),
        digests: file.digests.clone(),
        before: file.before.clone(),
        side: swap::side_for(site, &file.path, file.before.as_ref())?,
        record: file.record.clone(),
        span: file.span,
        upon: file.upon.clone(),
    })
}

pub(super) fn record(
    site: &Site<'_>,
    intent: i64,
    number: i64,
    step: &PublishStep,
    entry: &offsite_plugin_api::Entry,
) -> Result<Recorded> {
    let record =
        Recorded { target_version: entry.version.clone(), target_mtime: entry.mtime, ..step.record.clone() };
    let file = Published {
        path: step.path.clone(),
        source: step.source.clone(),
        record: record.clone(),
        span: step.span,
    };
    site.catalog.publish_done(intent, number, &file, &step.upon)?;
    Ok(record)
}

/// Deletes files of one image, in this order (the anchor first), under one intent, and forgets them. A file that is gone
/// already is a success.
///
/// Errors: `Backend(PreconditionFailed)` when a file is not as planned: it stays. After an error call it again, or
/// [`settle`].
pub fn delete_files(site: &Site<'_>, set: &str, files: &[Delete]) -> Result<()> {
    for file in files {
        for intent in site.catalog.intents_at(&file.path)? {
            settle_one(site, &intent, &super::site::no_source)?;
        }
    }
    let steps: Vec<IntentStep> =
        files.iter().map(|f| IntentStep::Delete { path: f.path.clone(), was: f.was.clone() }).collect();
    if steps.is_empty() {
        return Ok(());
    }
    let id = site.catalog.begin_intent(IntentKind::Delete, set, &steps)?;
    let (first, rest) = files.split_at(1);
    // The anchor alone: without it nobody takes the rest for an image, and the rest may go in one request.
    let result = delete_all(site, id, 0, first).and_then(|()| {
        rest.chunks(BATCH).enumerate().try_for_each(|(n, files)| delete_all(site, id, 1 + n * BATCH, files))
    });
    if let Err(error) = result {
        if let Some(intent) = site.catalog.intents()?.into_iter().find(|i| i.id == id) {
            let _ = settle_one(site, &intent, &super::site::no_source);
        }
        return Err(error);
    }
    Ok(())
}

/// Files deleted in one request at most: as many as S3 takes (DeleteObjects).
const BATCH: usize = 1000;

/// Deletes files of an intent, whose steps begin with `number`, and records each that is gone.
fn delete_all(site: &Site<'_>, intent: i64, number: usize, files: &[Delete]) -> Result<()> {
    let done = |index: usize| {
        killpoint::reach("delete.after-delete");
        site.catalog.delete_done(intent, (number + index) as i64, &files[index].path)
    };
    if let [file] = files {
        delete_one(site, &file.path, &file.was)?;
        return done(0);
    }
    let mut there = Vec::new();
    let mut items = Vec::new();
    for (index, file) in files.iter().enumerate() {
        match expected_there(site, &file.path, &file.was)? {
            Some(expect) => {
                there.push(index);
                items.push((file.path.clone(), expect));
            }
            None => done(index)?,
        }
    }
    if items.is_empty() {
        return Ok(());
    }
    let results = site.backend.delete_batch(site.call, &items)?;
    let mut failed = (results.len() != items.len()).then(|| {
        Error::new(Kind::Plugin, "the plugin did not say what became of each file it was to delete")
    });
    for (index, result) in there.into_iter().zip(results) {
        match result {
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound) => drop(failed.get_or_insert(e.into())),
            _ => done(index)?,
        }
    }
    failed.map_or(Ok(()), Err)
}

/// One file of an image; see [`delete_files`].
pub fn delete_file(site: &Site<'_>, set: &str, file: &Delete) -> Result<()> {
    delete_files(site, set, std::slice::from_ref(file))
}

/// What to ask of a file that is to be deleted: `None` where it is gone already.
fn expected_there(site: &Site<'_>, path: &TargetPath, was: &Was) -> Result<Option<Expect>> {
    if let Some(version) = was.version.as_ref().filter(|_| site.capabilities.conditional_publish) {
        return Ok(Some(Expect::Version(version.clone())));
    }
    match site.file(path)? {
        None => Ok(None),
        Some(entry) if was.still(&entry) => Ok(Some(Expect::Any)),
        Some(_) => Err(unexpected(path, BackendKind::PreconditionFailed, "the file was changed meanwhile")),
    }
}

fn delete_one(site: &Site<'_>, path: &TargetPath, was: &Was) -> Result<()> {
    let Some(expect) = expected_there(site, path, was)? else { return Ok(()) };
    match site.backend.delete(site.call, path, &expect) {
        Err(e) if !matches!(e.kind(), ErrorKind::NotFound) => Err(e.into()),
        _ => Ok(()),
    }
}

/// An act that was interrupted and that cannot be settled now, for a reason of its own names alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The names it was about, on the target.
    pub paths: Vec<TargetPath>,
    /// The set of which nothing may change until it is settled; `None` where its own names are all.
    pub set: Option<String>,
    /// Why, and what to do.
    pub why: String,
}

/// What [`settle`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// In words.
    pub said: Vec<String>,
    /// What stays open: its images wait, the others go on.
    pub stuck: Vec<Stuck>,
}

/// Settles every open intent by looking at the names, before a listing is interpreted: finishes or undoes. Idempotent,
/// and may be killed and repeated at any instant.
///
/// A group of which some files are visible and another can no longer be finished stays open (its set is in transition)
/// until its files are published anew. One whose names cannot be looked at or changed (a directory has the name of an
/// image) stays open, and nothing else waits for it. Errors: what says something of the whole target; nothing may run then.
pub fn settle(site: &Site<'_>, reopen: Reopen<'_>) -> Result<Settled> {
    let mut settled = Settled::default();
    for intent in site.catalog.intents()? {
        match settle_one(site, &intent, reopen) {
            Ok(said) => settled.said.extend(said),
            Err(error) if of_target(&error) => return Err(error),
            Err(error) => settled.stuck.push(stuck(&intent, &error)),
        }
    }
    Ok(settled)
}

fn stuck(intent: &Intent, error: &Error) -> Stuck {
    let whole = intent.concerns_its_set();
    Stuck {
        paths: intent.steps.iter().map(|(_, step)| step.path().clone()).collect(),
        set: whole.then(|| intent.set.clone()),
        why: format!("{}, and cannot be settled: {error}", describe(intent)),
    }
}

/// What [`settle`] would begin with, in words, and the sets that are in transition: by an act that was interrupted, or because
/// their images are replaced one by one. Changes nothing.
pub fn open_intents(catalog: &crate::catalog::Catalog) -> Result<(Vec<String>, Vec<String>)> {
    let mut words = Vec::new();
    let mut sets = catalog.transitions()?;
    for intent in catalog.intents()? {
        words.push(describe(&intent));
        if matches!(intent.kind, IntentKind::Group | IntentKind::Replace) {
            sets.push(intent.set.clone());
        }
    }
    Ok((words, sets))
}

pub(super) fn describe(intent: &Intent) -> String {
    let (verb, swap) = match intent.kind {
        IntentKind::Publish => ("publishing", false),
        IntentKind::Replace | IntentKind::Group => (
            "replacing",
            intent.steps.iter().any(|(_, s)| matches!(s, IntentStep::Publish(p) if p.side.is_some())),
        ),
        IntentKind::Delete => ("deleting", false),
        IntentKind::Manifest => ("writing", false),
    };
    let files: Vec<String> =
        intent.steps.iter().take(3).map(|(_, s)| s.path().display().into_owned()).collect();
    let more = intent.steps.len().saturating_sub(files.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let swap = if swap { " (by a swap)" } else { "" };
    format!("{verb} {}{more}{swap} was interrupted", files.join(", "))
}

pub(super) fn settle_one(site: &Site<'_>, intent: &Intent, reopen: Reopen<'_>) -> Result<Vec<String>> {
    match intent.kind {
        IntentKind::Delete => settle_delete(site, intent),
        IntentKind::Manifest => manifest::settle(site, intent),
        IntentKind::Publish | IntentKind::Replace | IntentKind::Group => settle_publish(site, intent, reopen),
    }
}

fn settle_delete(site: &Site<'_>, intent: &Intent) -> Result<Vec<String>> {
    let mut there = Vec::new();
    let mut said = Vec::new();
    let mut began = intent.partly_done();
    for (number, step) in &intent.steps {
        let IntentStep::Delete { path, was } = step else { continue };
        match site.file(path)? {
            None => {
                site.catalog.delete_done(intent.id, *number, path)?;
                said.push(format!("{} is deleted", path.display()));
                began = true;
            }
            Some(entry) => there.push((*number, path, was.still(&entry), was)),
        }
    }
    for (number, path, still, was) in there {
        if began && still {
            delete_one(site, path, was)?;
            killpoint::reach("delete.after-delete");
            site.catalog.delete_done(intent.id, number, path)?;
            said.push(format!("{} is deleted with the rest of its image", path.display()));
        } else {
            site.catalog.drop_step(intent.id, number, None)?;
            said.push(format!("{} was not deleted", path.display()));
        }
    }
    Ok(said)
}

fn settle_publish(site: &Site<'_>, intent: &Intent, reopen: Reopen<'_>) -> Result<Vec<String>> {
    let mut states = Vec::new();
    for (number, step) in &intent.steps {
        let IntentStep::Publish(step) = step else { continue };
        let (state, staged) = swap::look(site, step)?;
        // A server without durable checkpoints may have lost any of it since it was proved: what has the name is read back
        // first, and the run that goes on with what is staged reads that back. Until then the old file is the good one.
        let sound = site.capabilities.durable_checkpoints || step.record.level == VerifyLevel::Size;
        let state = if sound { state } else { swap::proved(site, step, state)? };
        states.push((*number, step.as_ref(), state, staged && sound));
    }
    // Whether a reader can see new content already: then the rest belongs to it.
    let shows = |state: &State| matches!(state, State::After(_) | State::Beside(_) | State::Unknown);
    let mut shown = intent.partly_done() || states.iter().any(|(_, _, state, _)| shows(state));
    // Whether an earlier file of the group kept its old content: then the later ones, its descendants, keep theirs.
    let mut stuck = false;
    let mut said = Vec::new();
    let mut left = Vec::new();
    for (number, step, state, staged) in states {
        let name = step.path.display();
        let side = step.side.as_ref();
        let source = || reopen(step).unwrap_or_else(|| Arc::new(Unreadable(step.record.size)));
        let forward = match (&state, side) {
            (State::After(entry), _) => Some(Ok((entry.clone(), "is published"))),
            (State::Beside(entry), Some(side)) => {
                swap::drop_side(site, side)?;
                Some(Ok((entry.clone(), "is replaced; the old file was removed")))
            }
            (State::Gap, Some(side)) if staged && !stuck => Some(
                swap::fill_gap(site, step, side, source())
                    .map(|e| (e, "is replaced; an open swap was finished")),
            ),
            (State::Before, _) if staged && shown && !stuck => {
                Some(swap::act(site, step, source()).map(|e| (e, "is published with the rest of its set")))
            }
            (State::Gap | State::Before, _) => None,
            (State::Unknown | State::Beside(_), _) => {
                site.catalog.unrecord(intent.id, number, &step.path)?;
                said.push(format!("{name} is of unknown origin: it is read back"));
                continue;
            }
        };
        match forward {
            Some(Ok((entry, words))) => {
                record(site, intent.id, number, step, &entry)?;
                shown = true;
                said.push(format!("{name} {words}"));
                continue;
            }
            Some(Err(error)) if !final_answer(&error) => return Err(error),
            _ => {}
        }
        // It cannot be finished: whatever the attempt left is undone.
        stuck = true;
        match (swap::look(site, step)?, side) {
            ((State::Gap, staged), Some(side)) => {
                swap::put_back(site, side, &step.path)?;
                said.push(format!("{name} has its old file again; an open swap was undone"));
                left.push((number, step, staged));
            }
            ((State::Before, staged), _) => left.push((number, step, staged)),
            _ => {
                site.catalog.unrecord(intent.id, number, &step.path)?;
                said.push(format!("{name} is of unknown origin: it is read back"));
            }
        }
    }
    for (number, step, staged) in left {
        let name = step.path.display();
        if shown && intent.total > 1 {
            said.push(format!(
                "{name} keeps its old content while others of its set have the new: it is sent again"
            ));
            continue;
        }
        site.catalog.drop_step(intent.id, number, (!staged).then_some(&step.path))?;
        let staged = if staged { "it is still staged" } else { "nothing of it is staged any more" };
        said.push(format!("{name} was not published; {staged}"));
    }
    Ok(said)
}

/// Whether trying again cannot help: what was staged is not usable, or the name is not as expected.
fn final_answer(error: &Error) -> bool {
    use ErrorKind::{Corrupt, Exists, NotFound, PreconditionFailed, SourceChanged, StaleToken, Unsupported};
    match &error.kind {
        Kind::Verify => true,
        Kind::Backend(kind) => matches!(
            kind,
            NotFound | StaleToken | SourceChanged | Exists | PreconditionFailed | Unsupported | Corrupt
        ),
        _ => false,
    }
}
