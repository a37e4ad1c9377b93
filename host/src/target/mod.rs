//! What is on a target: listing and manifest, claim marker, names, staging names, journalled swap.

mod evidence;
pub mod names;
mod view;

pub use evidence::{Gathered, headers_to_read, view};
pub use view::{Recorded, TargetFile, TargetView, VerifyLevel};
