//! What is in the source: walk it, wait for files to settle, take a snapshot.
//!
//! The source is only ever read. What cannot be told (an unreadable directory, a share that went away) is said, never
//! taken for emptiness.

mod beneath;
mod inventory;
mod lock;
mod memory;
mod observations;
mod recognise;
mod scan;
mod tree;
mod trouble;
mod walk;

#[cfg(test)]
mod tests;

pub use beneath::{Sameness, open_file, open_root, same_file};
pub use inventory::{Inventory, SourceFile, Unsettled};
pub use observations::{InMemory, Learned, Observations, Place, Remembered, Seen};
pub use scan::{Clock, ScanOptions, SystemClock, scan};

/// What the model test simulates.
#[cfg(test)]
#[allow(unused_imports)]
pub(crate) use self::{
    scan::scan_folder,
    tree::{Folder, Peek, Tree},
    walk::{Facts, Walk},
};
