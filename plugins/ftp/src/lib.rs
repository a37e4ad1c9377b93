//! FTP servers as targets (RFC 959, 2428, 3659), with TLS (RFC 4217) or without.
//!
//! The modules are the backend; this file only exports it.

mod change;
mod check;
mod client;
mod config;
mod dial;
mod error;
mod facts;
mod list;
mod names;
mod pool;
mod read;
mod reply;
mod session;
mod stage;
mod tls;
mod watch;
mod write;

pub use client::{Ftp, FtpPlugin};

offsite_plugin_api::export_backend! {
    plugin: FtpPlugin,
    metadata: {
        id: "ftp",
        vendor: "offsite",
        licence: "MIT OR Apache-2.0",
        description: "FTP and FTPS servers",
        schemes: [("ftp", Some(21)), ("ftps", Some(21))],
        options: include_str!("../options.schema.json"),
    }
}
