//! Which images the user asked for: by kind, by format, by globs on the anchor's path. Parts and side-cars go with
//! their image, so only the image is asked.

use globset::GlobSet;
use offsite_plugin_api::TargetPath;

use super::Filter;
use crate::error::Result;
use crate::format::{Format, ImageKind};
use crate::source::ignore::{globs, matches};

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
    /// Errors: [`Kind::Config`](crate::error::Kind::Config) for a glob that cannot be read.
    pub fn new(filter: &'a Filter) -> Result<Self> {
        Ok(Self {
            filter,
            include: globs("the filter", &filter.include)?,
            exclude: globs("the filter", &filter.exclude)?,
        })
    }

    /// Leaves everything out: for a filter that cannot be read.
    pub fn nothing(filter: &'a Filter) -> Self {
        let all = globs("the filter", &["**".to_owned()]).unwrap_or_else(|_| GlobSet::empty());
        Self { filter, include: GlobSet::empty(), exclude: all }
    }

    /// `None` when the image is wanted. `what` is `None` for a file that no format knows: it has no kind and no format,
    /// so a filter that names some leaves it out.
    pub fn image(&self, path: &TargetPath, what: Option<(Format, ImageKind)>) -> Option<LeftOut> {
        let (format, kind) = what.unzip();
        self.by_kind(format, kind).or_else(|| self.path(path))
    }

    fn by_kind(&self, format: Option<Format>, kind: Option<ImageKind>) -> Option<LeftOut> {
        let outside = |empty: bool, held: bool| !empty && !held;
        if outside(self.filter.kinds.is_empty(), kind.is_some_and(|k| self.filter.kinds.contains(&k))) {
            return Some(LeftOut::Kind);
        }
        if outside(self.filter.formats.is_empty(), format.is_some_and(|f| self.filter.formats.contains(&f))) {
            return Some(LeftOut::Format);
        }
        None
    }

    /// What the globs alone say, for a file that may turn out to be an image of any kind.
    pub fn path(&self, path: &TargetPath) -> Option<LeftOut> {
        if self.include.is_empty() && self.exclude.is_empty() {
            return None;
        }
        if !self.include.is_empty() && !matches(&self.include, path) {
            return Some(LeftOut::NotIncluded);
        }
        matches(&self.exclude, path).then_some(LeftOut::Excluded)
    }
}
