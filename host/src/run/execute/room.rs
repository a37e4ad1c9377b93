//! When the target has no room for an image: what fits goes on.
//!
//! The image is set aside, and what was staged of it is dropped, because that room may do for others. When all else is
//! done, deletions included, it is tried once more; what does not fit then is told, and the run is not wholly done. A
//! target that says how much is free is asked before a file is sent that may not fit.

use super::super::call::SHORT;
use super::super::transfer::{self, FileJob};
use super::{Executor, State};
use crate::error::{BackendKind, Error, Kind, Result};
use crate::notice::NoticeCode;
use crate::report::{count, word};

/// Whether there was no room.
pub(super) fn none(error: &Error) -> bool {
    error.is_backend(&BackendKind::NoSpace) || error.is_backend(&BackendKind::Quota)
}

/// A file is under way, as long as this lives.
pub(super) struct UnderWay<'e, 'a> {
    executor: &'e Executor<'a>,
    bytes: u64,
}

impl Drop for UnderWay<'_, '_> {
    fn drop(&mut self) {
        self.executor.lock().under_way -= self.bytes;
    }
}

impl<'a> Executor<'a> {
    /// Errors: `NoSpace` where the target says that this file does not fit beside those under way.
    pub(super) fn room_for(&self, job: &FileJob) -> Result<UnderWay<'_, 'a>> {
        let bytes = job.step.bytes;
        if self.material.tight
            && let Ok(space) = self.context.backend.space(&self.context.line.call(Some(SHORT)))
            && let Some(free) = space.free
        {
            let staged = self.context.catalog.staged_at(&job.step.target)?;
            let there: u64 = staged.map_or(0, |s| s.ranges.iter().map(|r| r.length).sum());
            let wanted = bytes.saturating_sub(there);
            let rest = free.saturating_sub(self.lock().under_way);
            if wanted > rest {
                let (needs, free) = (crate::report::bytes(wanted), crate::report::bytes(rest));
                return Err(Error::new(Kind::Backend(BackendKind::NoSpace), "the target has no room for it")
                    .on(job.step.target.display())
                    .because(format!("it needs {needs}, {free} are free"))
                    .hint("free some room there; with sync, --delete-first lets old sets go before new ones come"));
            }
        }
        self.lock().under_way += bytes;
        Ok(UnderWay { executor: self, bytes })
    }

    /// Whether the unit is to be tried again when all else is done.
    pub(super) fn make_way(&self, state: &mut State, unit: usize, step: usize, acting: bool) -> bool {
        let known = state.schedule.units[unit].standing == super::super::schedule::Standing::SetAside;
        if !state.schedule.set_aside(unit, acting) {
            return false;
        }
        // Those that another thread has in its hands are dropped when that meets the same.
        for (step, at) in state.schedule.units[unit].files.clone() {
            if state.ready.remove(&(step, at)).is_some() {
                self.drop_staged(step, at);
            }
        }
        if !known {
            let image = self.material.plan.steps[step].image.display().into_owned();
            tracing::info!(image, "no room for it now: it is tried again when all else is done");
        }
        true
    }

    /// The room that a file takes that did not fit may do for others.
    pub(super) fn drop_staged(&self, step: usize, at: usize) {
        if let Ok(job) = self.material.job(self.context, &self.material.plan.steps[step], at) {
            transfer::give_up(self.context, &job);
        }
    }

    /// After the run: how much did not fit.
    pub(super) fn tell_room(&self, state: &State) {
        let images = state.summary.no_room;
        if images > 0 {
            let text = format!(
                "{} did not fit on the target, and what builds on {} was not sent; free some room there, or let old sets \
                 go first (sync with --delete-first)",
                count(images, "image"),
                word(images, "it", "them")
            );
            self.context.line.outbox.notice(NoticeCode::NoRoom, text);
        }
    }
}
