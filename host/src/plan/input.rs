//! What a plan is made from: plain values only, so that the same input always gives the same plan.

use offsite_plugin_api::Capabilities;

use super::{Baseline, Options};
use crate::chain::Chains;
use crate::source::Inventory;
use crate::target::TargetView;

/// What a sub-folder template may name beside the set and its date.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub job: String,
    pub host: String,
}

/// Everything the planner looks at.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub inventory: &'a Inventory,
    /// Assembled from `inventory`.
    pub source: &'a Chains,
    pub target: &'a TargetView,
    pub options: &'a Options,
    /// Kept since the policy took effect; `None` with a policy means that it takes effect now: everything there is
    /// belongs to the baseline.
    pub baseline: Option<&'a Baseline>,
    pub capabilities: &'a Capabilities,
    pub names: &'a Names,
    /// Nanoseconds since the Unix epoch: what retention is judged by.
    pub now_ns: i64,
}
