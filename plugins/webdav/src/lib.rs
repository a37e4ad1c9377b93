//! WebDAV servers as targets (RFC 4918): Apache mod_dav, Nextcloud, ownCloud, and whatever else speaks it.
//!
//! The modules are the backend; this file only exports it.

mod auth;
mod body;
mod change;
mod check;
mod chunked;
mod client;
mod config;
mod error;
mod http;
mod list;
mod names;
mod parts;
mod propfind;
mod ranges;
mod read;
mod stage;
mod tls;
mod traits;
mod write;

pub use client::{WebDav, WebDavPlugin};

offsite_plugin_api::export_backend! {
    plugin: WebDavPlugin,
    metadata: {
        id: "webdav",
        vendor: "offsite",
        licence: "MIT OR Apache-2.0",
        description: "WebDAV servers, Nextcloud and ownCloud",
        schemes: [("https", Some(443)), ("http", Some(80)), ("webdavs", Some(443)), ("webdav", Some(80))],
        options: include_str!("../options.schema.json"),
    }
}
