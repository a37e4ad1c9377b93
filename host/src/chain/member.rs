//! What `assemble` is given: files with what formats say of them, and what a target proves beyond that.

use std::collections::BTreeMap;

use offsite_plugin_api::TargetPath;

use crate::chain::{Evidence, Span};
use crate::format::Recognised;
use crate::source::Inventory;

/// One file, at the source or on a target. Borrowed: a million of them cost no copy of any name.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Relative to the root.
    pub path: &'a TargetPath,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since the Unix epoch. On a target: of the source file when it was published, where that is known,
    /// because sets that are ordered by time are ordered by this.
    pub mtime_ns: Option<i64>,
    /// `None`: no format knows it.
    pub recognised: Option<&'a Recognised>,
    /// Why its content cannot be an image's, in words, where that is known: it is empty, or begins otherwise.
    pub bad: Option<&'a str>,
}

/// A span that names and headers do not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProvenSpan {
    pub span: Span,
    pub evidence: Evidence,
    /// Supported by the catalog only: shown as `consolidated, unproven`.
    pub unproven: bool,
}

/// What a target's manifest, catalog and the user's acceptance prove. Empty for a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Knowledge {
    /// By the image's anchor.
    pub spans: BTreeMap<TargetPath, ProvenSpan>,
}

impl Inventory {
    /// The settled files, as `assemble` takes them.
    pub fn members(&self) -> Vec<Member<'_>> {
        self.files
            .iter()
            .map(|f| Member {
                path: &f.path,
                size: f.size,
                mtime_ns: Some(f.mtime_ns),
                recognised: f.recognised.as_ref(),
                bad: if self.bad.is_empty() { None } else { self.bad.get(&f.path).map(String::as_str) },
            })
            .collect()
    }
}
