//! The contract between offsite and its storage plugins.
//!
//! A vendor implements [`Backend`] and [`Plugin`] in plain Rust and calls [`export_backend!`]; no type of the
//! binary interface is visible here. The contract is written on the trait methods; `README.md` is the guide.

pub mod abi;
mod backend;
mod call;
mod capability;
mod check;
#[cfg(feature = "conformance")]
pub mod conformance;
mod entry;
mod error;
mod export;
mod metadata;
mod path;
mod probe;
mod ranges;
mod transfer;

pub use backend::{Backend, Host, Opened, Plugin, Secrets};
pub use call::{Call, CallHost, Level};
pub use capability::{Capabilities, NameRules, Normalisation, PartSizes, Replace, Resume, Space};
pub use check::{CheckReport, CheckStep, StepResult};
pub use entry::{Attributes, Digest, Entry, EntryKind, Page, Retention, Timestamp};
pub use error::{Error, ErrorKind, Result, Retry};
pub use metadata::{Metadata, Scheme};
pub use path::TargetPath;
pub use probe::{Bytes, Probe, Unwatched};
pub use ranges::Ranges;
/// What secrets are held in: overwritten when dropped.
pub use zeroize::Zeroizing;

pub use transfer::{
    Expect, Object, PublishRequest, Range, ResumeFrom, Session, Sink, Source, StageRequest, Staged,
    StagedInfo, Token,
};
