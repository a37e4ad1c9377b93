//! Plugins: where they are looked for, what a file says about itself, and how one is loaded.
//!
//! `dirs` finds candidate files, `trust` decides whether their owner and mode are fit, `inspect` reads a file's
//! metadata without running any of its code, `registry` keeps what was found and opens targets, `load` turns checked
//! bytes into a running module, `schema` checks a target's options, `log` takes a plugin's records, `rows` is what
//! `offsite plugin` shows. Everything that is turned down is a [`Refusal`]: one sentence, and the others go on.

pub mod dirs;
pub mod inspect;
mod load;
pub mod log;
pub mod mismatch;
mod registry;
mod rows;
pub mod schema;
mod trust;

pub use log::PluginLog;
pub use mismatch::{Refusal, RefusalCode};
pub use registry::{DirectoryState, Entry, Found, Registry, Searched, Status};
pub use rows::{DirectoryRow, PluginRow, PluginStatus, SchemeRow, directories, info, list};
