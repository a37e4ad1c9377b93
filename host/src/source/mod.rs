//! What is in the source: walk it, wait for files to settle, take a snapshot.

mod inventory;

pub use inventory::{Inventory, SourceFile, Unsettled};
