//! Image sets as trees, assembled from files and what formats say of them. Pure: no I/O, no clock.
//!
//! The same assembly serves the source (inventory) and a target (listing, manifest): any order of files gives the
//! same chains.

mod assemble;
mod draft;
mod files;
mod member;
mod number;
mod time;
mod types;
mod without;

#[cfg(test)]
mod tests;

pub use assemble::assemble;
pub use member::{Knowledge, Member, ProvenSpan};
pub use types::{Chains, Evidence, Image, ImageFile, ImageSet, Other, Parent, Problem, Span};
