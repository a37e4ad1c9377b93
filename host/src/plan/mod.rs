//! (chains, target state, options, baseline) -> Plan. Pure: time, listings and capabilities come in as values.
//!
//! `index` pairs source and target, `decide` judges a set's images (`compare`, `filter`, `policy`; `cover` with
//! `consolidated`, `merged` and `beside`; `waits` with `names`; `lacks` with `attach`), `order` makes steps of that, `deletes` (with `needs`, `succession` and `sync`) judges what only the target
//! has, `doomed` what of that goes in this run, `explain` has every sentence.

mod attach;
mod beside;
mod compare;
mod consolidated;
mod cover;
mod decide;
mod deletes;
mod doomed;
mod explain;
mod filter;
mod index;
mod input;
pub mod json;
mod lacks;
mod merged;
mod names;
mod needs;
pub(crate) mod notices;
mod omitted;
mod order;
mod policy;
mod respell;
mod succession;
mod sync;
#[cfg(test)]
pub(crate) mod tests;
mod totals;
mod types;
mod unsettled;
mod validate;
mod waits;

pub use crate::notice::{Notice, NoticeCode};
pub use input::{Input, Names};
pub use merged::{Content, Proof, prove};
pub use policy::Template;
pub use types::{
    Action, Baseline, Code, DeleteFirst, FileAction, FileStep, Filter, Merge, Options, Plan, Policy,
    Remember, Sign, Step, Totals,
};
pub use validate::validate;

/// What a run will do, step by step, with a reason for each. The same input gives the same plan.
///
/// Options must have passed [`validate`].
pub fn plan(input: &Input<'_>) -> Plan {
    let index = index::Index::new(*input);
    let mut steps = order::Steps::default();
    let mut deletes = deletes::Deletes::new(&index);
    let mut near = 0;
    for set in &input.source.sets {
        let mut decided = decide::decide(&index, set, &mut near);
        let mut touched = Vec::new();
        if deletes.looks() {
            decide::locate(&index, set, &mut decided);
            touched = deletes.needs.learn(&index, set, &decided);
            deletes.succession.learn(&index, set, &decided);
        }
        let tips = steps.set(&index, set, decided, &mut near);
        deletes.needs.tips(&touched, &tips);
        deletes.succession.tips(tips);
    }
    let place = index.place_named("", None);
    for other in &input.source.others {
        steps.other(&index, other, &place, &mut near);
    }
    for unsettled in &input.inventory.unsettled {
        steps.skip(&unsettled.path, "".into(), None, &unsettled::reason(&index, unsettled));
    }
    for alone in &input.inventory.left_alone {
        steps.skip(&alone.path, "".into(), None, &explain::Reason::LeftAlone(&alone.reason));
    }
    let mut held = Vec::new();
    let remember = deletes.finish(&index, &mut steps, &mut held);
    let order::Steps { steps, links, another, .. } = steps;
    let mut notices = notices::notices(&index, &steps);
    notices.append(&mut held);
    if let (count, Some((image, ancestor))) = &another {
        notices.push(notices::another(*count as u64, image, ancestor));
    }
    let totals = totals::totals(&steps);
    Plan { steps, notices, totals, remember, links }
}
