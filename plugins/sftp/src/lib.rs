//! SFTP servers as targets.
//!
//! The modules are the backend; this file only exports it.

mod ask;
mod change;
mod check;
mod client;
mod config;
mod connect;
mod digest;
mod error;
mod hostkey;
mod link;
mod list;
mod pool;
mod read;
mod stage;
mod stream;
mod traits;
mod wire;
mod write;

pub use client::{Sftp, SftpPlugin};

offsite_plugin_api::export_backend! {
    plugin: SftpPlugin,
    metadata: {
        id: "sftp",
        vendor: "offsite",
        licence: "MIT OR Apache-2.0",
        description: "SFTP servers (SSH)",
        schemes: [("sftp", Some(22))],
        options: include_str!("../options.schema.json"),
    }
}
