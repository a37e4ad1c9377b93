//! Intents of several new files written down at once, ahead of their publishing, so that a chain of small images waits for
//! the local disk once and not once for each.
//!
//! Each file has an intent of its own, as [`super::publish_file`] would give it: durable before the file is touched,
//! ended by its record, settled by looking at the names. That several are open at a kill means no more than that each
//! of them may or may not have begun. One that will not be acted upon is withdrawn; should that fail, the next run
//! finds that nothing happened.

use std::sync::Arc;

use super::Recorded;
use super::intent::{Publish, already, expected, explained, record, settle_one, step_of};
use super::site::Site;
use super::swap;
use crate::catalog::{IntentKind, IntentStep, PublishStep};
use crate::error::Result;

/// Durably writes down that each of these new files is about to be published. Gives each one's intent, for
/// [`publish_announced`]; `None` where something is open or done already: [`super::publish_file`] deals with that.
///
/// Errors: `State`; nothing is announced then.
pub fn announce(site: &Site<'_>, files: &[Publish]) -> Result<Vec<Option<i64>>> {
    let mut steps = Vec::new();
    let mut given = Vec::with_capacity(files.len());
    for file in files {
        let plain = file.before.is_none()
            && site.catalog.intents_at(&file.path)?.is_empty()
            && site.catalog.staged_at(&file.path)?.is_some();
        given.push(plain);
        if plain {
            steps.push((file, [IntentStep::Publish(Box::new(step_of(site, file)?))]));
        }
    }
    if steps.is_empty() {
        return Ok(vec![None; files.len()]);
    }
    let intents: Vec<(&str, &[IntentStep])> =
        steps.iter().map(|(file, step)| (file.record.set.as_str(), step.as_slice())).collect();
    let mut ids = site.catalog.begin_intents(IntentKind::Publish, &intents)?.into_iter();
    Ok(given.into_iter().map(|plain| if plain { ids.next() } else { None }).collect())
}

/// Makes one announced file visible and records it. Errors and what to do after one: as [`super::publish_file`].
pub fn publish_announced(site: &Site<'_>, file: &Publish, intent: i64) -> Result<Recorded> {
    let step = step_of(site, file)?;
    match expected(site, file).and_then(|()| swap::act(site, &step, file.source.clone())) {
        Ok(entry) => record(site, intent, 0, &step, &entry),
        Err(error) => {
            // A change whose answer was lost is a success.
            let reopen = |of: &PublishStep| (of.token == file.token).then(|| Arc::clone(&file.source));
            if let Some(open) = site.catalog.intents_at(&file.path)?.into_iter().find(|i| i.id == intent) {
                let _ = settle_one(site, &open, &reopen);
            }
            already(site, file).ok().flatten().ok_or_else(|| explained(site, &file.path, error))
        }
    }
}

/// Ends announced intents of which nothing was begun.
pub fn withdraw(site: &Site<'_>, intents: &[i64]) -> Result<()> {
    if intents.is_empty() { Ok(()) } else { site.catalog.close_intents(intents) }
}
