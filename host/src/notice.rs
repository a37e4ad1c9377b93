//! What a user must see that is no step and no failure of one image: one type for the planner, the runs and the reports.
//!
//! Each notice has a code from a closed list, for machines, and a level that the code decides: only `failing` ones
//! change an exit code. Both are part of the JSON's promise (`host/NOTICES.md`). A code of a newer worker passes as it
//! is, with the level that it came with.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How much a notice matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeLevel {
    /// Good to know; nothing is to be done.
    Info,
    /// Somebody should look at it; the exit code stays.
    Warning,
    /// Something that was asked for was not done: the run ends with exit code 3 and is no success.
    Failing,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $level:ident;)*) => {
        /// What a notice is about; in JSON as its kebab-case name.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum NoticeCode {
            $($(#[doc = $doc])+ $name,)*
            /// One that this version does not know.
            Other(Box<str>),
        }

        impl NoticeCode {
            /// All known ones, in the order of the documentation.
            pub const ALL: &[NoticeCode] = &[$(Self::$name),*];

            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(text) => text,
                }
            }

            /// What a notice of this code comes to.
            pub fn level(&self) -> NoticeLevel {
                match self {
                    $(Self::$name => NoticeLevel::$level,)*
                    Self::Other(_) => NoticeLevel::Info,
                }
            }

            /// One line of documentation.
            pub fn meaning(&self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+).trim_ascii_start(),)*
                    Self::Other(_) => "not known to this version",
                }
            }
        }
    };
}

codes! {
    // The source.
    /// a directory of the source could not be read: what is in it is not replicated, and what may belong there not deleted
    Unreadable = "unreadable", Failing;
    /// a file of the source could not be read: its image is not replicated
    UnreadableFile = "unreadable-file", Failing;
    /// an image was still being written, or changed, in every run for a day: it is not replicated
    KeepsChanging = "keeps-changing", Failing;
    /// a file system that was mounted inside the source is not mounted now: what it held is unknown
    MountMissing = "mount-missing", Warning;
    /// another file system is mounted where the source's was: what was there is unknown until `offsite source accept`
    MountChanged = "mount-changed", Warning;
    /// a directory of the source was replaced by a symbolic link, which is not followed
    SymlinkReplaced = "symlink-replaced", Warning;
    /// symbolic links and special files of the source are left alone
    LeftAlone = "left-alone", Info;
    /// files of the source are of no known format and are not replicated
    Unrecognised = "unrecognised", Info;
    /// files that look like disk images, or a whole folder, are of no known format and are not replicated
    ImageLikeUnrecognised = "image-like-unrecognised", Warning;
    /// the source holds settled files, and none of them is an image, filtered or taken by `include_other`
    NothingRecognised = "nothing-recognised", Failing;
    /// files of the source are no images, though their names say so: they are empty, or begin otherwise; they are not sent
    NotAnImage = "not-an-image", Warning;
    /// an image of the source lacks what it builds on
    Gap = "gap", Warning;
    /// the memory of earlier scans was lost or damaged: absence is not believed until files are proved again
    StateLost = "state-lost", Warning;

    // The target.
    /// something about the target that is worth knowing
    Target = "target", Warning;
    /// a listing of the target left something out: nothing there counts as gone
    IncompleteListing = "incomplete-listing", Warning;
    /// published files are not listed, and whether the target still has them is not known
    Unknown = "unknown", Failing;
    /// an interrupted act on the target could not be settled: its images wait, the others go on
    Unsettled = "unsettled", Failing;
    /// images are damaged on the target, or were changed there by somebody else
    Damaged = "damaged", Warning;
    /// images are part of a consolidation on the target that nothing proves, or build on one
    Unproven = "unproven", Warning;
    /// images of the source changed, and nothing proves what they absorbed: nothing is deleted for it
    ChangedUnproven = "changed-unproven", Warning;
    /// images of the source that seemed to have taken in others have not changed: those others are kept
    MergeCancelled = "merge-cancelled", Info;
    /// an ancestor on the target is not the one that images were published upon
    AncestorAltered = "ancestor-altered", Warning;
    /// images cannot be restored on their own on this target
    NotRestorable = "not-restorable", Warning;
    /// a set is between old and new; it is whole again when the replacement ends
    InTransition = "in-transition", Warning;
    /// an image of the target cannot be read now (archived), so that it cannot be compared
    UnreadableTarget = "unreadable-target", Warning;
    /// images cannot be held by the target (name, size)
    Refused = "refused", Failing;
    /// something else has an image's name on the target
    NameTaken = "name-taken", Failing;
    /// names differ only by case or normalisation, which the target ignores
    NameFolded = "name-folded", Warning;
    /// less room is free on the target than is needed
    Space = "space", Warning;
    /// images did not fit on the target; what fitted was sent
    NoRoom = "no-room", Failing;
    /// a manifest on the target is not signed by this installation: its word is not proof
    ManifestUnproven = "manifest-unproven", Warning;
    /// a set's manifest cannot be read or written: that set is held
    ManifestDamaged = "manifest-damaged", Failing;
    /// a set's manifest could not be written yet; it is tried again
    ManifestBehind = "manifest-behind", Warning;
    /// the local catalog was damaged; it is rebuilt from the target
    CatalogLost = "catalog-lost", Warning;
    /// what an earlier run left open is settled first
    Unfinished = "unfinished", Info;
    /// remains of earlier runs could not be removed
    NotSwept = "not-swept", Warning;
    /// unfinished uploads of another installation are on the target; they are left alone
    ForeignStaging = "foreign-staging", Info;

    // Deletions.
    /// deletions are held until the user allows them
    DeletesHeld = "deletes-held", Failing;
    /// more images, other files or side-cars would be deleted than `max_delete` allows: none of these is
    OverDeleteLimit = "over-delete-limit", Failing;
    /// a deletion waits for what failed, is unknown or is still being written
    DeletesBlocked = "deletes-blocked", Warning;
    /// what is gone at the source is kept until `delete_after` has passed
    DeletesLater = "deletes-later", Info;
    /// images are deleted before their successors are there, as `delete_first` asks
    DeleteFirst = "delete-first", Warning;

    // How it runs.
    /// a password, or what it protects, goes over the network without encryption
    PlainPassword = "plain-password", Warning;
    /// a plugin warned of something
    PluginWarning = "plugin-warning", Warning;
    /// the worker warned of something
    WorkerWarning = "worker-warning", Warning;
    /// the record of this run could not be kept: `offsite status` does not show it
    RecordLost = "record-lost", Warning;
    /// the target's `priority` could not be set
    Priority = "priority", Warning;
}

impl From<&str> for NoticeCode {
    fn from(text: &str) -> Self {
        let known = Self::ALL.iter().find(|code| code.as_str() == text);
        known.cloned().unwrap_or_else(|| Self::Other(text.into()))
    }
}

impl fmt::Display for NoticeCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for NoticeCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for NoticeCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(String::deserialize(deserializer)?.as_str()))
    }
}

/// Something the user must see that is no step: a rule that held deletions back, a gap, a set in transition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Notice {
    pub code: NoticeCode,
    pub level: NoticeLevel,
    /// One sentence.
    pub text: String,
}

impl Notice {
    /// With the level of its code.
    pub fn new(code: NoticeCode, text: impl Into<String>) -> Self {
        Self { level: code.level(), code, text: text.into() }
    }

    /// Whether the run ends with exit code 3 for it.
    pub fn failing(&self) -> bool {
        self.level == NoticeLevel::Failing
    }
}

/// As it stands in JSON. `failing` came first and stays; a level that is not known is told by it.
#[derive(Clone, Serialize, Deserialize)]
struct Written {
    code: NoticeCode,
    text: String,
    #[serde(default)]
    failing: bool,
    #[serde(default)]
    level: String,
}

impl From<Notice> for Written {
    fn from(notice: Notice) -> Self {
        let level = match notice.level {
            NoticeLevel::Info => "info",
            NoticeLevel::Warning => "warning",
            NoticeLevel::Failing => "failing",
        };
        Self { failing: notice.failing(), code: notice.code, text: notice.text, level: level.to_owned() }
    }
}

impl From<Written> for Notice {
    fn from(written: Written) -> Self {
        let level = match (written.failing, written.level.as_str()) {
            (true, _) => NoticeLevel::Failing,
            (false, "info") => NoticeLevel::Info,
            (false, "warning") => NoticeLevel::Warning,
            (false, _) => written.code.level().min(NoticeLevel::Warning),
        };
        Self { code: written.code, level, text: written.text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of `host/NOTICES.md`.
    fn table() -> String {
        let row = |code: &NoticeCode| {
            let level = Written::from(Notice::new(code.clone(), "")).level;
            format!("| `{code}` | {level} | {} |\n", code.meaning())
        };
        let rows: String = NoticeCode::ALL.iter().map(row).collect();
        format!("| code | level | meaning |\n|---|---|---|\n{rows}")
    }

    #[test]
    fn the_documentation_lists_every_code_and_no_other() {
        let text = include_str!("../NOTICES.md");
        let listed: String = text.lines().filter(|l| l.starts_with('|')).map(|l| format!("{l}\n")).collect();
        assert_eq!(listed, table(), "host/NOTICES.md should hold this table:\n{}", table());
    }

    #[test]
    fn names_are_kebab_case_and_each_is_one_code() {
        let mut names: Vec<&str> = NoticeCode::ALL.iter().map(NoticeCode::as_str).collect();
        let kebab = |n: &&str| n.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !n.starts_with('-');
        assert!(names.iter().all(kebab), "{names:?}");
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NoticeCode::ALL.len());
        for code in NoticeCode::ALL {
            assert_eq!(NoticeCode::from(code.as_str()), *code);
        }
    }

    #[test]
    fn json_keeps_its_fields_and_reads_what_older_and_newer_workers_write() {
        let notice = Notice::new(NoticeCode::OverDeleteLimit, "3 of 4");
        let text = serde_json::to_string(&notice).unwrap();
        assert_eq!(text, r#"{"code":"over-delete-limit","text":"3 of 4","failing":true,"level":"failing"}"#);
        assert_eq!(serde_json::from_str::<Notice>(&text).unwrap(), notice);
        for (text, code, level) in [
            (r#"{"code":"gap","text":"x","failing":false}"#, NoticeCode::Gap, NoticeLevel::Warning),
            (r#"{"code":"gap","text":"x","failing":true}"#, NoticeCode::Gap, NoticeLevel::Failing),
            (
                r#"{"code":"solar-flare","text":"x","failing":false,"level":"warning"}"#,
                NoticeCode::Other("solar-flare".into()),
                NoticeLevel::Warning,
            ),
            (
                r#"{"code":"solar-flare","text":"x","failing":true,"level":"dire"}"#,
                NoticeCode::Other("solar-flare".into()),
                NoticeLevel::Failing,
            ),
        ] {
            let read: Notice = serde_json::from_str(text).unwrap();
            assert_eq!((&read.code, read.level), (&code, level), "{text}");
            assert_eq!(serde_json::to_value(&read).unwrap()["code"], code.as_str());
        }
    }
}
