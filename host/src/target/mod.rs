//! What is on a target: listing and manifest, claim marker, names, staging names, journalled swap.
//!
//! A run goes: [`marker::claim`], [`settle`], [`survey`] (with [`sweep::sides`]), [`remember`], plan, [`sweep::sweep`], then
//! [`publish_file`] and its like, and [`manifest::write_behind`].

mod after;
mod announce;
mod ask;
mod consolidated;
mod evidence;
mod files;
mod gather;
mod intent;
mod listing;
pub mod manifest;
pub mod marker;
pub mod names;
pub mod proof;
mod site;
mod small;
mod swap;
pub mod sweep;
mod view;
mod whole;

#[cfg(test)]
pub(crate) mod tests;

pub use after::after;
pub use announce::{announce, publish_announced, withdraw};
pub use ask::{Incomplete, shown};
pub use consolidated::accept_changed;
pub use evidence::{Gathered, ToRead, to_read, view};
pub use files::Files;
pub use gather::{Learned, Survey, accept, baseline, remember, survey};
pub use intent::{
    Delete, Publish, Settled, Stuck, delete_file, delete_files, open_intents, publish_file, publish_group,
    replace_file, settle,
};
pub use listing::{Listing, list};
pub use marker::{Claim, Marker, Who, take_over};
pub use site::{Reopen, Site, no_source, of_target, replaceable};
pub use small::{read_head, readable};
pub use view::{
    AbsorbedBy, Bound, ParentRecord, PendingDeletes, Recorded, TargetFile, TargetView, Unknown, VerifyLevel,
};
pub use whole::Whole;
