//! `offsite` replicates disk-backup image chains to offsite storage.
//!
//! Modules in pipeline order: config -> source -> format -> chain -> target -> plan -> run -> catalog -> report,
//! with `plugin` beneath `target` and `run`. `chain` and `plan` are pure. `ARCHITECTURE.md` has the layer table.

pub mod catalog;
pub mod chain;
pub mod cli;
pub mod config;
pub mod error;
pub mod failure;
pub mod format;
#[cfg(test)]
mod model;
pub mod notice;
pub mod plan;
pub mod plugin;
pub mod report;
pub mod run;
pub mod source;
pub mod target;
mod words;
