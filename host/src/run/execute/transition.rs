//! What differs within a set goes as one group. Where the target has no room for the whole group beside the old images, the
//! set is marked as in transition, on this machine's disk, and its images are replaced one by one, ancestors first: each
//! needs no more room than itself. Until the last one is there nothing of the set is called restorable, whatever kills the
//! run meanwhile; the next run goes on.

use std::collections::HashSet;

use super::super::schedule::active;
use super::{Executor, Material, State};
use crate::catalog::Catalog;
use crate::error::Result;
use crate::notice::NoticeCode;
use crate::plan::{Action, Code, FileAction, Step};
use crate::run::context::Context;

impl Executor<'_> {
    /// Before a unit's files become visible.
    pub(super) fn begin(&self, unit: usize) -> Result<()> {
        let marked = {
            let state = self.lock();
            let unit = &state.schedule.units[unit];
            unit.one_by_one.then(|| unit.set.clone())
        };
        marked.map_or(Ok(()), |set| self.context.catalog.begin_transition(&set))
    }

    /// Whether the unit found no room as a whole, and can be replaced image by image: it is set aside once more, until all
    /// else is done.
    pub(super) fn one_by_one(&self, state: &mut State, unit: usize, acting: bool) -> bool {
        let made = &state.schedule.units[unit];
        let steps = &self.material.plan.steps;
        // Also what is compared first is replaced where it differs.
        let replaces =
            |file: &crate::plan::FileStep| matches!(file.action, FileAction::Replace | FileAction::Adopt);
        if made.steps.len() < 2 || !made.steps.iter().any(|s| steps[*s].files.iter().any(replaces)) {
            return false;
        }
        let set = made.set.clone();
        if !state.schedule.one_by_one(unit, acting) {
            return false;
        }
        let text = format!(
            "what differs of {set} does not fit on the target beside the old images: its images are replaced one by one, \
             ancestors first, and until the last one is there nothing of the set is restorable on this target"
        );
        self.context.line.outbox.notice(NoticeCode::Space, text);
        true
    }
}

/// Sets of which nothing is left to be replaced are in transition no more, nor are those of which the target holds nothing
/// and the source has nothing: their records, which outlast them, would keep the mark, and the mark the records.
pub(super) fn finish(context: &Context, material: &Material<'_>, done: &HashSet<usize>) -> Result<()> {
    let (plan, view) = (material.plan, material.view);
    let catalog: &Catalog = &context.catalog;
    let marked = catalog.transitions()?;
    if marked.is_empty() {
        return Ok(());
    }
    let published = catalog.published_sets()?;
    let listed = view.files.values().filter_map(|file| file.recorded.as_deref());
    let unknown = view.unknown.values().map(|unknown| &*unknown.recorded);
    let there: HashSet<&str> = listed.chain(unknown).map(|recorded| recorded.set.as_str()).collect();
    for set in marked {
        let mut steps =
            plan.steps.iter().enumerate().filter(|(_, s)| *s.set == *set && s.action != Action::Delete);
        let planned = plan.steps.iter().any(|s| *s.set == *set && s.action != Action::Delete);
        let as_it_should_be = |(at, step): (usize, &Step)| match active(step) {
            true => done.contains(&at),
            false => matches!(
                step.code,
                Code::UpToDate | Code::Consolidated | Code::Covered | Code::Filtered | Code::BeforeBaseline
            ),
        };
        let gone = !planned && view.incomplete.is_empty() && !there.contains(set.as_str());
        if (planned && steps.all(as_it_should_be)) || gone || !published.contains(&set) {
            catalog.end_transition(&set)?;
        }
    }
    Ok(())
}
