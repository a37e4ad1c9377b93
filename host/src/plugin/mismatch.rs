//! Why a directory or a file is not used: one sentence with what was found, what is needed, and what to do.

use std::fmt;

use serde::Serialize;

/// For scripts; the sentence is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// Cannot be opened or read.
    Unreadable,
    /// Not a regular file, or not a directory.
    NotAFile,
    ForeignOwner,
    /// Others than its owner may change it.
    Writable,
    TooLarge,
    NotALibrary,
    WrongTriple,
    NoMetadata,
    BadMetadata,
    UnknownAbi,
    /// Its bytes are others than those inspected.
    Changed,
    /// The system's loader said no: a missing library or symbol.
    CannotLoad,
    NoModule,
    /// Its module's header, layout or start.
    BadModule,
}

/// One sentence in `Display`, without the path: whoever prints it knows the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: RefusalCode,
    sentence: String,
    /// The long form, for `-v`: a layout comparison has more than a hundred lines.
    pub details: Option<String>,
}

impl Refusal {
    /// `found` and `needed` read as "FOUND, but NEEDED: ACTION".
    pub fn new(
        code: RefusalCode,
        found: impl fmt::Display,
        needed: impl fmt::Display,
        action: impl fmt::Display,
    ) -> Self {
        Self { code, sentence: format!("{found}, but {needed}: {action}"), details: None }
    }

    /// For a sentence that has all three parts already.
    pub fn sentence(code: RefusalCode, sentence: impl fmt::Display) -> Self {
        Self { code, sentence: sentence.to_string(), details: None }
    }

    pub fn details(mut self, details: Option<impl Into<String>>) -> Self {
        self.details = details.map(Into::into);
        self
    }

    /// For a failed system call: `act` is what was tried.
    pub fn unreadable(act: &str, error: impl fmt::Display) -> Self {
        let needed = "it must be readable to be used";
        Self::new(
            RefusalCode::Unreadable,
            format!("{act} failed ({error})"),
            needed,
            "correct that or remove it",
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Refusal {}
