//! What the user wrote -> [`Job`] (resolved, validated).
//!
//! `file` reads `offsite.toml`, `adhoc` the flags of a line; both give the same [`Job`] and note everything that is
//! wrong at once. Secrets are references until `resolve` is asked for those of one target.

pub mod adhoc;
mod file;
mod job;
mod locate;
mod problem;
pub mod resolve;
mod secrets;
mod section;
mod target;
pub mod units;
pub mod url;

#[cfg(test)]
mod tests;

pub use file::{SETTLE, line_of, load, read, source_dir};
pub use job::{Bandwidth, Job, Priority, Retry, SecretRef, Target, Verify, Window};
pub use locate::{find, places};
pub use problem::{Problem, Problems};
pub use secrets::MANIFEST_KEY;
pub(crate) use target::glob;
