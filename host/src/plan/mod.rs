//! (chains, target state, options, baseline) -> Plan. Pure: time, listings and capabilities come in as values.

mod filter;
mod input;
pub mod json;
mod policy;
mod types;
mod validate;

pub use input::{Input, Names};
pub use policy::Template;
pub use types::{
    Action, Baseline, Code, FileAction, FileStep, Filter, Notice, Options, Plan, Policy, Step, Totals,
};
pub use validate::validate;
