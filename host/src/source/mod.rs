//! What is in the source: walk it, wait for files to settle, take a snapshot.
//!
//! The source is only ever read. What cannot be told (an unreadable directory, a share that went away) is said, never
//! taken for emptiness.

mod accept;
mod beneath;
mod doubts;
mod drift;
mod earlier;
mod evidence;
pub(crate) mod ignore;
mod inventory;
mod lock;
mod memory;
mod mounts;
mod observations;
mod recognise;
mod scan;
mod times;
mod tree;
mod trouble;
mod walk;

#[cfg(test)]
mod tests;

pub use accept::{Accepted, accept};
pub use beneath::{Sameness, open_file, open_root, same_file};
pub use earlier::Earlier;
pub use inventory::{Cause, Doubt, DoubtCause, Inventory, LeftAlone, LeftBy, SourceFile, Unsettled};
pub use observations::{InMemory, Learned, MountPoint, Observations, Place, RecordedFile, Remembered, Seen};
pub use scan::{Clock, ScanOptions, SystemClock, scan};
pub use times::same_mtime;

/// What the model test simulates.
#[cfg(test)]
#[allow(unused_imports)]
pub(crate) use self::{
    scan::scan_folder,
    tree::{Folder, Peek, Tree},
    walk::{Facts, Mounted, Walk},
};
