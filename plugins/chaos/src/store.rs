//! The folder backend's own modules. Not a dependency: both crates export a module under the one name that the
//! loader asks for, and a library can hold only one.

#[path = "../../folder/src/change.rs"]
mod change;
#[path = "../../folder/src/check.rs"]
mod check;
#[path = "../../folder/src/client.rs"]
mod client;
#[path = "../../folder/src/config.rs"]
mod config;
#[path = "../../folder/src/error.rs"]
mod error;
#[path = "../../folder/src/list.rs"]
mod list;
#[path = "../../folder/src/read.rs"]
mod read;
#[path = "../../folder/src/stage.rs"]
mod stage;
#[path = "../../folder/src/traits.rs"]
mod traits;
#[path = "../../folder/src/write.rs"]
mod write;

pub use client::{Folder, FolderPlugin};
