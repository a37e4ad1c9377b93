//! What is wrong with a configuration: all of it at once, each with file, line and key.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Kind};

/// One thing wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `None` for the command line.
    pub file: Option<PathBuf>,
    /// From 1.
    pub line: Option<usize>,
    /// `job.daily.target.nas.url`, or the flag.
    pub key: String,
    pub what: String,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    /// `offsite.toml:12: job.target.url: what (hint)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}", file.display())?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
            f.write_str(": ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// Everything wrong, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    pub(super) fn sort(&mut self) {
        self.0.sort_by_key(|p| p.line.unwrap_or(0));
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl From<Problems> for Vec<Error> {
    fn from(problems: Problems) -> Self {
        problems.0.into_iter().map(Error::from).collect()
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        let at = match (&problem.file, problem.line) {
            (Some(file), Some(line)) => format!("{}:{line}: ", file.display()),
            (Some(file), None) => format!("{}: ", file.display()),
            _ => String::new(),
        };
        let what = if problem.key.is_empty() {
            format!("{at}{}", problem.what)
        } else {
            format!("{at}{}: {}", problem.key, problem.what)
        };
        let kind = if problem.file.is_some() { Kind::Config } else { Kind::Usage };
        let error = Error::new(kind, what);
        match problem.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// The text of a configuration file with the means to say where something is in it.
pub(super) struct Text<'a> {
    pub file: &'a Path,
    /// Byte offset of each line's start.
    lines: Vec<usize>,
}

impl<'a> Text<'a> {
    pub fn new(file: &'a Path, text: &str) -> Self {
        let starts = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        Self { file, lines: std::iter::once(0).chain(starts).collect() }
    }

    pub fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|&start| start <= offset)
    }

    pub fn problem(&self, offset: usize, key: impl Into<String>, what: impl Into<String>) -> Problem {
        Problem {
            file: Some(self.file.to_owned()),
            line: Some(self.line(offset)),
            key: key.into(),
            what: what.into(),
            hint: None,
        }
    }
}

impl Problem {
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// For a flag.
    pub(super) fn flag(flag: &str, what: impl Into<String>) -> Self {
        Self { file: None, line: None, key: flag.to_owned(), what: what.into(), hint: None }
    }
}
