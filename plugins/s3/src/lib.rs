//! S3 buckets as targets: Amazon's and other servers'.
//!
//! Large files go up as multipart uploads, which no reader sees until they are completed; small ones in one request when
//! they are published.

mod body;
mod change;
mod check;
mod chunked;
mod client;
mod config;
mod connect;
mod digest;
mod endpoint;
mod error;
mod list;
mod read;
mod stage;
mod token;
mod uploads;
mod write;

pub use client::S3Plugin;

offsite_plugin_api::export_backend! {
    plugin: S3Plugin,
    metadata: {
        id: "s3",
        vendor: "offsite",
        licence: "MIT OR Apache-2.0",
        description: "Amazon S3 and servers that speak its protocol",
        schemes: [("s3", Some(443)), ("s3+https", Some(443)), ("s3+http", Some(80))],
        options: include_str!("../options.schema.json"),
    }
}
