//! Before anything of a set is deleted, the set's manifest on the target says what lies there: after a loss of the local
//! state it is all that speaks for what the deletion leaves. A manifest that cannot be written holds the set's deletions,
//! in this run and in every later one until it could be; whatever else there is to do goes on, new images of the set
//! included.
//!
//! A lack of room is no fault of one set's manifest, and deletions are what ends it: they go on.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::call::LONG;
use super::super::meter;
use super::{Executor, State, room};
use crate::error::{Error, Result};
use crate::plan::FileAction;
use crate::report::Event;
use crate::target::manifest::{self, pieces};

impl Executor<'_> {
    /// What keeps the manifest of these steps' sets from being up to date, if anything does. It is written where it is
    /// behind; each set's once in a run.
    pub(super) fn not_recorded(&self, steps: &[usize]) -> Option<Error> {
        let steps = steps.iter().map(|step| &self.material.plan.steps[*step]);
        let units: BTreeSet<String> = steps
            .flat_map(|step| step.files.iter().map(move |file| (step, file)))
            .filter(|(_, file)| file.action == FileAction::Delete)
            .map(|(step, file)| pieces::unit_of(&step.set, &file.target))
            .collect();
        units.into_iter().find_map(|unit| self.behind(unit))
    }

    fn behind(&self, unit: String) -> Option<Error> {
        let mut state = self.lock();
        loop {
            if let Some(known) = state.recorded.get(&unit) {
                return known.clone();
            }
            if state.writing.insert(unit.clone()) {
                break;
            }
            // Another thread writes it.
            let waited = self.changed.wait_timeout(state, Duration::from_millis(200));
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        drop(state);
        let error = self.catch_up(&unit).err().filter(|error| !room::none(error));
        let mut state = self.lock();
        state.writing.remove(&unit);
        state.recorded.insert(unit, error.clone());
        self.changed.notify_all();
        error
    }

    fn catch_up(&self, unit: &str) -> Result<()> {
        if self.context.catalog.unwritten_changes(unit)? == 0 {
            return Ok(());
        }
        self.context.retried(None, &|| 0, || {
            let call = self.context.line.call(Some(LONG));
            manifest::write_set(&self.context.site(&call), unit).map(drop)
        })
    }

    /// Keeps what a unit was to delete, and whatever would go after it.
    pub(super) fn hold(&self, state: &mut State, unit: usize, error: &Error) {
        let mut held = state.schedule.failed(unit, true);
        held.insert(0, unit);
        for step in held.iter().flat_map(|unit| &state.schedule.units[*unit].steps) {
            let image = self.material.plan.steps[*step].image.display().into_owned();
            let why = meter::bounded(&error.without_hint());
            self.context.line.outbox.event(Event::Skipped {
                image: image.clone(),
                code: "manifest-behind".to_owned(),
                reason: format!(
                    "kept: gone at the source, but the manifest of its set cannot be written, and until then nothing of \
                     the set is deleted: {why}"
                ),
            });
            state.summary.waiting.push(image);
        }
    }
}
