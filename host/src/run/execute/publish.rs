//! Making a unit visible, and writing down ahead what comes right after it.
//!
//! Images of a chain become visible one after the other. Those that are staged and proved and only wait for this one are
//! announced together with it: one wait for the local disk for all their intents. Each is published as before, once its
//! parent is there; what will not be published after all is withdrawn.

use std::collections::HashSet;

use offsite_plugin_api::TargetPath;

use super::super::call::{LONG, SHORT};
use super::super::transfer;
use super::{Executor, Ready, State};
use crate::error::Result;
use crate::plan::Proof;
use crate::report::Event;
use crate::target::{self, Publish, VerifyLevel};

/// Units announced at once. A kill leaves as many intents to be settled by the next run.
const AHEAD: usize = 32;

impl Executor<'_> {
    /// Makes a unit's files visible, in the plan's order. Gives the weakest level reached, and the steps with a file that
    /// is there and could not be read back: nothing of them was changed; and the steps of which a file was sent. `unproved`: steps that do not hold what they are
    /// said to have absorbed.
    pub(super) fn publish(
        &self,
        unit: usize,
        steps: &[usize],
        unproved: &mut Vec<(usize, Proof)>,
    ) -> Result<(VerifyLevel, HashSet<usize>, HashSet<usize>)> {
        let mut unread = HashSet::new();
        let mut links = Vec::new();
        let mut files = Vec::new();
        let mut keys = Vec::new();
        let mut level = VerifyLevel::ReadBack;
        {
            let mut state = self.lock();
            for step in steps {
                self.hold_unread(&mut state, *step, &mut unread);
                for at in 0..self.material.plan.steps[*step].files.len() {
                    match state.ready.remove(&(*step, at)) {
                        Some(Ready::Publish(publish)) => {
                            level = level.min(publish.record.level);
                            files.push(*publish);
                            keys.push((*step, at));
                        }
                        Some(Ready::Adopted(proved)) => {
                            level = level.min(proved);
                            links.extend(self.link(*step, at));
                        }
                        Some(Ready::Unread(_)) | None => {}
                    }
                }
            }
        }
        for &step in steps {
            let found = self.prove(step, &mut files)?;
            unproved.extend(found.filter(|proof| *proof != Proof::Proved).map(|proof| (step, proof)));
        }
        let name = self.material.plan.steps[steps[0]].image.display().into_owned();
        let replaced = files.iter().any(|f| f.before.is_some());
        let grouped = files.len() > 1 && (replaced || steps.len() > 1);
        let plain = !grouped && !replaced && !files.is_empty();
        let mut announced = if plain { self.announced(unit, &keys, &files)? } else { Vec::new() };
        let mut seen: Vec<u64> = files.iter().map(|file| file.seen).collect();
        let result = self.context.retried(Some(&name), &|| 0, || {
            for (file, seen) in files.iter().zip(&mut seen) {
                *seen = transfer::still_whole(self.context, file, *seen)?;
            }
            let call = self.context.line.publishing(LONG);
            let site = self.context.site(&call);
            match files.as_slice() {
                [] => {}
                all if grouped => drop(target::publish_group(&site, all)?),
                [one] if one.before.is_some() => drop(target::replace_file(&site, one)?),
                all => {
                    for (at, file) in all.iter().enumerate() {
                        // Acted upon once: another attempt looks at what this one left.
                        match announced.get_mut(at).and_then(Option::take) {
                            Some(intent) => target::publish_announced(&site, file, intent)?,
                            None => target::publish_file(&site, file)?,
                        };
                    }
                }
            }
            Ok(())
        });
        if result.is_err() {
            self.give_back(announced.into_iter().flatten().collect());
        }
        result?;
        // Compared side by side, an image may have been recorded before its parent was.
        self.context.catalog.link(&links)?;
        for size in files.iter().map(|f| f.record.size).filter(|size| self.context.sent_at_publish(*size)) {
            self.context.line.meter.correct(i64::try_from(size).unwrap_or(i64::MAX));
        }
        Ok((level, unread, keys.into_iter().map(|(step, _)| step).collect()))
    }

    /// An image of which a file could not be read back stays as it is, as a whole, and is told.
    fn hold_unread(&self, state: &mut State, step: usize, unread: &mut HashSet<usize>) {
        let files = &self.material.plan.steps[step].files;
        let error = (0..files.len()).find_map(|at| match state.ready.get(&(step, at)) {
            Some(Ready::Unread(error)) => Some(error.without_hint()),
            _ => None,
        });
        let Some(error) = error else { return };
        unread.insert(step);
        for at in 0..files.len() {
            state.ready.remove(&(step, at));
        }
        let image = self.material.plan.steps[step].image.display().into_owned();
        state.unread = (state.unread.0 + 1, image.clone());
        self.context.line.outbox.event(Event::Skipped {
            image,
            code: "unread".to_owned(),
            reason: format!(
                "the target has it and does not let it be read back, so it is not verified yet: {}",
                super::super::meter::bounded(&error)
            ),
        });
    }

    /// What an adopted anchor builds on.
    fn link(&self, step: usize, at: usize) -> Option<(TargetPath, TargetPath)> {
        let step = &self.material.plan.steps[step];
        let file = step.files.get(at).filter(|f| f.path == step.image)?;
        Some((file.target.clone(), step.parent.clone()?))
    }

    /// The intents of a unit's files: written down with an earlier unit's, or now, with those of the units that follow.
    fn announced(&self, unit: usize, keys: &[(usize, usize)], files: &[Publish]) -> Result<Vec<Option<i64>>> {
        let (mut keys, mut files) = (keys.to_vec(), files.to_vec());
        let own = keys.len();
        {
            let mut state = self.lock();
            let known: Vec<Option<i64>> = keys.iter().map(|key| state.announced.remove(key)).collect();
            if known.iter().any(Option::is_some) {
                return Ok(known);
            }
            for follower in state.schedule.followers(unit, AHEAD - 1) {
                let Some(of_unit) = new_files(&state, follower) else { break };
                for (key, file) in of_unit {
                    keys.push(key);
                    files.push(file);
                }
            }
        }
        let call = self.context.line.call(Some(SHORT));
        let mut intents = target::announce(&self.context.site(&call), &files)?;
        let ahead = intents.split_off(own);
        let mut state = self.lock();
        state.announced.extend(keys.drain(own..).zip(ahead).filter_map(|(key, id)| Some((key, id?))));
        Ok(intents)
    }

    /// Units that cannot be done any more: nothing of what was announced of them began.
    pub(super) fn withdraw(&self, state: &mut State, units: &[usize]) {
        let State { schedule, announced, .. } = state;
        let keys = units.iter().flat_map(|unit| &schedule.units[*unit].files);
        self.give_back(keys.filter_map(|key| announced.remove(key)).collect());
    }

    /// The run ends.
    pub(super) fn withdraw_all(&self) {
        let intents = self.lock().announced.drain().map(|(_, id)| id).collect();
        self.give_back(intents);
    }

    /// What cannot be withdrawn now is settled by the next run.
    fn give_back(&self, intents: Vec<i64>) {
        let call = self.context.line.call(Some(SHORT));
        if let Err(error) = target::withdraw(&self.context.site(&call), &intents) {
            tracing::warn!(%error, "announced images could not be withdrawn; the next run does it");
        }
    }
}

/// The files of a unit, if all of them are new and ready.
fn new_files(state: &State, unit: usize) -> Option<Vec<((usize, usize), Publish)>> {
    let unit = &state.schedule.units[unit];
    if unit.steps.len() != 1 || unit.files.is_empty() {
        return None;
    }
    let ready = |key: &(usize, usize)| match state.ready.get(key) {
        Some(Ready::Publish(file)) if file.before.is_none() && !state.announced.contains_key(key) => {
            Some((*key, (**file).clone()))
        }
        _ => None,
    };
    unit.files.iter().map(ready).collect()
}
