//! The end of a run: what only many runs together can tell is remembered. Which sets lag behind, and which records are of
//! nothing that is left. Nothing is listed again for it.

use std::cell::{OnceCell, RefCell};
use std::collections::HashSet;

use offsite_plugin_api::TargetPath;

use super::context::Context;
use super::schedule::active;
use super::{forget, lag};
use crate::chain::Chains;
use crate::error::Result;
use crate::plan::Plan;
use crate::source::Inventory;
use crate::target::{self, TargetView};

/// `view`: the target as the run found it; `done`: the plan's steps that were carried out. To be called before the manifests that are behind are written: a set whose
/// records were forgotten is one of them.
pub fn remember(
    context: &Context,
    inventory: &Inventory,
    source: &Chains,
    plan: &Plan,
    view: TargetView,
    done: &HashSet<usize>,
) -> Result<()> {
    let catalog = &context.catalog;
    let known = catalog.gone()?;
    let mut gone = forget::gone(&view, inventory, &known);
    let sets: HashSet<String> = view.gone.values().map(|r| r.set.clone()).collect();

    let (before, now) = (RefCell::new(Some(view)), OnceCell::new());
    let touched = || plan.steps.iter().flat_map(|s| &s.files).map(|f| &f.target);
    let look = || -> Result<&TargetView> {
        if let Some(view) = now.get() {
            return Ok(view);
        }
        let view = before.take().unwrap_or_default();
        // A run that changed nothing left the target as it found it.
        let none = view.parents_known && !plan.steps.iter().any(active);
        let view = if none { view } else { target::after(view, catalog, touched())? };
        Ok(now.get_or_init(|| view))
    };

    let due = forget::due(&gone, inventory.scanned_ns);
    if !due.is_empty() {
        let forgotten: Vec<TargetPath> = forget::forgettable(due, look()?);
        gone.retain(|path, _| forgotten.binary_search(path).is_err());
        if !forgotten.is_empty() {
            catalog.forget(&forgotten)?;
        }
    }
    catalog.put_gone(&known, &gone)?;

    let run = lag::Run {
        source,
        plan,
        done,
        gone: sets.iter().map(String::as_str).collect(),
        scanned_ns: inventory.scanned_ns,
        whole: inventory.unreadable.is_empty() && inventory.doubts.is_empty(),
    };
    let lagged = catalog.lags()?;
    catalog.put_lags(&lagged, &lag::lags(&run, &lagged, look)?)?;
    super::left_to_the_exit((before, now));
    Ok(())
}
