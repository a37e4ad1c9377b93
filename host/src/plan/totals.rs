//! What a plan comes to.

use super::{Action, Step, Totals};

pub(crate) fn totals(steps: &[Step]) -> Totals {
    let mut totals = Totals::default();
    for step in steps {
        match step.action {
            Action::Copy => totals.copy += 1,
            Action::Replace => totals.replace += 1,
            Action::Delete => totals.delete += 1,
            Action::Skip => totals.skip += 1,
        }
        if matches!(step.action, Action::Copy | Action::Replace) {
            totals.bytes = totals.bytes.saturating_add(step.bytes);
        }
    }
    totals
}
