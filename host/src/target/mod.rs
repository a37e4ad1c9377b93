//! What is on a target: listing and manifest, claim marker, names, staging names, journalled swap.

pub mod names;
mod view;

pub use view::{Recorded, TargetFile, TargetView, VerifyLevel};
