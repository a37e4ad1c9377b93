//! (chains, target state, options, baseline) -> Plan. Pure: time, listings and capabilities come in as values.

mod types;

pub use types::{
    Action, Baseline, Code, FileAction, FileStep, Filter, Notice, Options, Plan, Policy, Step, Totals,
};
