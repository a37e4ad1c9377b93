//! Folders as targets: local disks, and shares the system has mounted.
//!
//! The modules are the backend; this file only exports it (the chaos plugin of the tests builds on the modules).

mod change;
mod check;
mod client;
mod config;
mod error;
mod list;
mod read;
mod stage;
mod traits;
mod write;

pub use client::{Folder, FolderPlugin};

offsite_plugin_api::export_backend! {
    plugin: FolderPlugin,
    metadata: {
        id: "folder",
        vendor: "offsite",
        licence: "MIT OR Apache-2.0",
        description: "Local folders and mounted shares",
        schemes: [("folder", None), ("file", None)],
        options: include_str!("../options.schema.json"),
    }
}
