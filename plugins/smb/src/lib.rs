//! Network shares (SMB 2 and 3) as targets, without a mount.
//!
//! The modules are the backend; this file only exports it.

mod change;
mod check;
mod client;
mod config;
mod error;
mod file;
mod hello;
mod list;
mod names;
mod read;
mod runtime;
mod share;
mod stage;
mod write;

pub use client::{Smb, SmbPlugin};

offsite_plugin_api::export_backend! {
    plugin: SmbPlugin,
    metadata: {
        id: "smb",
        vendor: "offsite",
        licence: "MIT OR Apache-2.0",
        description: "Network shares (SMB)",
        schemes: [("smb", Some(445)), ("cifs", Some(445))],
        options: include_str!("../options.schema.json"),
    }
}
