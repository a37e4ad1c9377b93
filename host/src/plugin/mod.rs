//! Plugins: where they are looked for, what a file says about itself, and how one is loaded.
//!
//! `dirs` finds candidate files, `trust` decides whether their owner and mode are fit, `inspect` reads a file's
//! metadata without running any of its code, `registry` keeps what was found and opens targets, `load` turns checked
//! bytes into a running module, `schema` checks a target's options, `log` takes a plugin's records, `discreet` and
//! `redact` take secrets out of everything a plugin says, `rows` is what `offsite plugin` shows. Everything that is turned down is a [`Refusal`]: one sentence, and the others go on.

pub mod dirs;
mod discreet;
pub mod inspect;
mod load;
pub mod log;
pub mod mismatch;
mod redact;
mod registry;
mod rows;
pub mod schema;
mod trust;

pub use log::{LOG_TARGET, PluginLog};
pub use mismatch::{Refusal, RefusalCode};
pub use redact::Redactor;
pub use registry::{DirectoryState, Entry, Found, Registry, Searched, Status};
pub use rows::{DirectoryRow, PluginRow, PluginStatus, SchemeRow, directories, info, list};
