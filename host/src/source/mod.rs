//! What is in the source: walk it, wait for files to settle, take a snapshot.

mod inventory;
mod observations;

pub use inventory::{Inventory, SourceFile, Unsettled};
pub use observations::{InMemory, Learned, Observations, Place, Remembered, Seen};
