//! Which images the user asked for: by kind, by format, by globs on the anchor's path. Parts and side-cars go with
//! their image, so only the image is asked.

use std::os::unix::ffi::OsStrExt as _;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use offsite_plugin_api::TargetPath;

use super::Filter;
use crate::error::{Error, Kind, Result};
use crate::format::{Format, ImageKind};

/// A filter with its globs compiled.
pub(crate) struct Matcher<'a> {
    filter: &'a Filter,
    include: GlobSet,
    exclude: GlobSet,
}

/// Why an image is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeftOut {
    Kind,
    Format,
    NotIncluded,
    Excluded,
}

impl<'a> Matcher<'a> {
    /// Errors: [`Kind::Config`] for a glob that cannot be read.
    pub fn new(filter: &'a Filter) -> Result<Self> {
        Ok(Self { filter, include: globs(&filter.include)?, exclude: globs(&filter.exclude)? })
    }

    /// Leaves everything out: for a filter that cannot be read.
    pub fn nothing(filter: &'a Filter) -> Self {
        let all = globs(&["**".to_owned()]).unwrap_or_else(|_| GlobSet::empty());
        Self { filter, include: GlobSet::empty(), exclude: all }
    }

    /// `None` when the image is wanted. `what` is `None` for a file that no format knows: it has no kind and no format,
    /// so a filter that names some leaves it out.
    pub fn image(&self, path: &TargetPath, what: Option<(Format, ImageKind)>) -> Option<LeftOut> {
        let (format, kind) = what.unzip();
        let outside = |empty: bool, held: bool| !empty && !held;
        if outside(self.filter.kinds.is_empty(), kind.is_some_and(|k| self.filter.kinds.contains(&k))) {
            return Some(LeftOut::Kind);
        }
        if outside(self.filter.formats.is_empty(), format.is_some_and(|f| self.filter.formats.contains(&f))) {
            return Some(LeftOut::Format);
        }
        if self.include.is_empty() && self.exclude.is_empty() {
            return None;
        }
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
        if !self.include.is_empty() && !self.include.is_match(path) {
            return Some(LeftOut::NotIncluded);
        }
        self.exclude.is_match(path).then_some(LeftOut::Excluded)
    }
}

/// `*` and `?` stay within a directory, `**` crosses; a glob without `/` is for the name in any directory.
fn globs(patterns: &[String]) -> Result<GlobSet> {
    let refuse = |pattern: &str, error: globset::Error| {
        Error::new(Kind::Config, "the filter has a glob that cannot be read")
            .on(pattern)
            .because(error.kind())
            .hint("write it like '*.aiv' or 'server1/**'")
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let anywhere = if pattern.contains('/') { pattern.clone() } else { format!("**/{pattern}") };
        let glob = GlobBuilder::new(anywhere.trim_start_matches('/'))
            .literal_separator(true)
            .build()
            .map_err(|e| refuse(pattern, e))?;
        set.add(glob);
    }
    set.build().map_err(|e| refuse(&patterns.join(", "), e))
}
