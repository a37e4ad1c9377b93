//! What the user said to leave alone: globs on paths relative to the source. What they name is not looked at, not copied,
//! and never found absent.

use std::os::unix::ffi::OsStrExt as _;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use offsite_plugin_api::TargetPath;

use crate::error::{Error, Kind, Result};

/// `*` and `?` stay within a directory, `**` crosses; a glob without `/` is for the name in any directory.
/// Errors: [`Kind::Config`], `what` beginning the sentence.
pub(crate) fn globs(what: &str, patterns: &[String]) -> Result<GlobSet> {
    let refuse = |pattern: &str, error: globset::Error| {
        Error::new(Kind::Config, format!("{what} has a glob that cannot be read"))
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

pub(crate) fn matches(globs: &GlobSet, path: &TargetPath) -> bool {
    globs.is_match(std::path::Path::new(std::ffi::OsStr::from_bytes(path.as_bytes())))
}

/// The job's `ignore`, compiled. A folder that it names is ignored with everything beneath.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ignore(GlobSet);

impl Ignore {
    /// Errors: [`Kind::Config`].
    pub fn new(patterns: &[String]) -> Result<Self> {
        globs("ignore", patterns).map(Self)
    }

    /// Whether this name is meant, as far as its own directory is not.
    pub fn names(&self, path: &TargetPath) -> bool {
        !self.0.is_empty() && matches(&self.0, path)
    }

    /// The same where nobody came down to it directory by directory.
    pub fn covers(&self, path: &TargetPath) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let mut at = Some(path.clone());
        while let Some(here) = at.filter(|here| !here.is_root()) {
            if self.names(&here) {
                return true;
            }
            at = here.parent();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_names_files_and_whole_folders() {
        let ignore = Ignore::new(&["*.log".into(), "scratch".into(), "a/*/keep.bin".into()]).unwrap();
        for (path, expected) in [
            ("service.log", true),
            ("deep/er/service.log", true),
            ("scratch/x/y.aiv", true),
            ("b/scratch/y.aiv", true),
            ("a/b/keep.bin", true),
            ("a/b/c/keep.bin", false),
            ("service.log.aiv", false),
        ] {
            assert_eq!(ignore.covers(&TargetPath::new(path).unwrap()), expected, "{path}");
        }
        assert!(Ignore::new(&["[".into()]).is_err());
        assert!(!Ignore::default().covers(&TargetPath::new("a").unwrap()));
    }
}
