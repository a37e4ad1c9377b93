//! Every sentence a step can give as its reason, and the code that goes with it: the CLI, the JSON form and the tests
//! read one thing.

use std::borrow::Cow;

use offsite_plugin_api::TargetPath;

use super::Code;
use super::filter::LeftOut;
use crate::report::{count, word};
use crate::target::shown;

/// Why a step is what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason<'a> {
    New,
    Vanished,
    FileNew,
    FileVanished,
    UpToDate,
    SourceChanged,
    Merged {
        images: usize,
    },
    ChangedUnproven {
        images: usize,
    },
    NotAnImage {
        file: &'a TargetPath,
        why: &'a str,
    },
    Touched,
    Foreign,
    AdoptUnrecorded,
    AdoptTouched,
    AdoptRewritten,
    AdoptUnread,
    Covered {
        by: &'a TargetPath,
        unproven: bool,
    },
    Consolidated {
        images: usize,
        unproven: bool,
    },
    Filtered(LeftOut),
    SetBeforeBaseline,
    ImageBeforeBaseline,
    NotSettled(&'a str),
    FileNotSettled(&'a TargetPath),
    SetNotSettled(&'a TargetPath),
    CannotRead(&'a str),
    FileUnreadable(&'a TargetPath),
    ParentUnread,
    Waiting(&'a TargetPath),
    Unknown(&'a str),
    Stuck(&'a str),
    Unlisted(&'a TargetPath),
    UnlistedSet(&'a TargetPath),
    NotRecognised(&'a str),
    LeftAlone(&'a str),
    Refused(String),
    Retained {
        until: i64,
    },
    GoneAtSource,
    Absorbed {
        by: &'a TargetPath,
    },
    Rotated {
        by: &'a str,
    },
    /// `early`: what takes its place is not published yet.
    DeleteFirst {
        by: &'a str,
        early: bool,
    },
    DeleteLater {
        until: i64,
    },
    MergeUnproven {
        by: &'a TargetPath,
    },
    KeptNoSync,
    KeptForeign,
    EmptySource,
    Unreadable(&'a TargetPath),
    NothingLeft,
    NoFileLeft,
    LastOfLineage,
    /// A set, or a file, in words.
    SuccessorNotYet {
        by: String,
    },
    LastBeforeSuccessor {
        by: &'a str,
    },
    OwnUnfinished(&'a TargetPath),
    /// An image of its set cannot be copied yet.
    OwnWaits(&'a TargetPath),
    NotTwiceAbsent,
    /// Its place at the source is in doubt.
    PlaceUnknown(&'a TargetPath),
    TouchedGone,
    Needed,
    /// The target consolidated it, and it holds that image of the source.
    Holds {
        image: &'a TargetPath,
    },
    BelowSpan {
        by: &'a TargetPath,
    },
    ImageHeld,
    OverDeleteLimit,
}

/// Why an image cannot be restored on its own although it is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Incomplete<'a> {
    LeftOut,
    /// The source has it no more (or not yet), in words.
    Lacking(&'a str),
    /// What is wrong, as a clause.
    Broken(&'a str),
    /// That ancestor was replaced after what stays above it was published upon it.
    Another(&'a TargetPath),
    /// What it was published upon is not what is below it now, on either side; as a clause.
    Elsewhere(&'a str),
}

impl Reason<'_> {
    pub fn code(&self) -> Code {
        match self {
            Self::New | Self::FileNew => Code::New,
            Self::Vanished | Self::FileVanished | Self::Touched | Self::Foreign => Code::Damaged,
            Self::UpToDate => Code::UpToDate,
            Self::SourceChanged | Self::Merged { .. } => Code::Changed,
            Self::ChangedUnproven { .. } | Self::MergeUnproven { .. } => Code::ChangedUnproven,
            Self::NotAnImage { .. } => Code::NotAnImage,
            Self::AdoptUnrecorded | Self::AdoptTouched | Self::AdoptRewritten | Self::AdoptUnread => {
                Code::Adopt
            }
            Self::Covered { unproven: true, .. } | Self::Consolidated { unproven: true, .. } => {
                Code::Unproven
            }
            Self::Covered { .. } => Code::Covered,
            Self::Consolidated { .. } => Code::Consolidated,
            Self::Filtered(_) => Code::Filtered,
            Self::SetBeforeBaseline | Self::ImageBeforeBaseline => Code::BeforeBaseline,
            Self::NotSettled(_) | Self::FileNotSettled(_) | Self::SetNotSettled(_) => Code::NotSettled,
            Self::CannotRead(_) => Code::Unreadable,
            Self::ParentUnread | Self::Waiting(_) | Self::FileUnreadable(_) | Self::Stuck(_) => Code::Waiting,
            Self::Unknown(_) | Self::Unlisted(_) | Self::UnlistedSet(_) => Code::Unknown,
            Self::NotRecognised(_) | Self::LeftAlone(_) => Code::NotRecognised,
            Self::Refused(_) => Code::Refused,
            Self::Retained { .. } => Code::Retained,
            Self::GoneAtSource | Self::Absorbed { .. } => Code::GoneAtSource,
            Self::Rotated { .. } => Code::Rotated,
            Self::DeleteFirst { .. } => Code::DeleteFirst,
            Self::DeleteLater { .. } => Code::DeleteLater,
            Self::NothingLeft | Self::NoFileLeft | Self::LastOfLineage => Code::Held,
            Self::KeptNoSync | Self::KeptForeign => Code::Kept,
            Self::EmptySource
            | Self::Unreadable(_)
            | Self::SuccessorNotYet { .. }
            | Self::LastBeforeSuccessor { .. }
            | Self::OwnUnfinished(_)
            | Self::OwnWaits(_)
            | Self::NotTwiceAbsent
            | Self::PlaceUnknown(_)
            | Self::TouchedGone
            | Self::Needed
            | Self::Holds { .. }
            | Self::BelowSpan { .. }
            | Self::ImageHeld => Code::Protected,
            Self::OverDeleteLimit => Code::OverDeleteLimit,
        }
    }

    /// One sentence, without its full stop: the image it is about stands before it.
    pub fn text(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::New => "not on the target yet",
            Self::Vanished => "was published, and is gone from the target: copied again",
            Self::FileNew => "one of its files is not on the target yet",
            Self::FileVanished => "one of its files was published, and is gone from the target: copied again",
            Self::UpToDate => "the target holds it as it is at the source",
            Self::SourceChanged => "changed at the source since it was published",
            Self::Merged { images } => {
                return format!(
                    "changed at the source, which seems to have consolidated {} into it",
                    count(*images as u64, "older image")
                )
                .into();
            }
            Self::ChangedUnproven { images } => {
                return format!(
                    "changed at the source, where {} below it {} gone, and nothing proves that it holds {} (changed, \
                     unproven): replaced, and nothing is deleted; `offsite target accept` settles it",
                    count(*images as u64, "image"),
                    word(*images as u64, "is", "are"),
                    word(*images as u64, "it", "them")
                )
                .into();
            }
            Self::NotAnImage { file, why } => {
                return format!(
                    "the source's file '{}' is no image: {why}; it is not sent, and replaces nothing",
                    file.display()
                )
                .into();
            }
            Self::Touched => {
                "somebody else changed it on the target, and it is no longer this image: copied again"
            }
            Self::Foreign => "the target has another file of this name, without a record: replaced",
            Self::AdoptUnrecorded => {
                "on the target without a record: compared with the source, and sent only if it differs"
            }
            Self::AdoptTouched => {
                "somebody else touched it on the target, its size is the same: compared, and sent only if it differs"
            }
            Self::AdoptRewritten => {
                "its change time at the source moved, size and time did not: compared, and sent only if it differs"
            }
            Self::AdoptUnread => {
                "adopted earlier and not read back yet: compared, and sent only if it differs"
            }
            Self::Covered { by, unproven: false } => {
                return format!("held by the target's consolidated image '{}'", by.display()).into();
            }
            Self::Covered { by, unproven: true } => {
                return format!(
                    "held by the target's image '{}' if that is a genuine consolidation (consolidated, unproven): \
                     not sent again; `offsite target accept` settles it",
                    by.display()
                )
                .into();
            }
            Self::Consolidated { images: 1, unproven: false } => {
                "the target consolidated it with images that the source no longer has: kept as it is"
            }
            Self::Consolidated { images: 1, unproven: true } => {
                "the target seems to have consolidated it with images that the source no longer has (consolidated, \
                 unproven): kept as it is; `offsite target accept` settles it"
            }
            Self::Consolidated { images, unproven: false } => {
                let images = count(*images as u64, "image");
                return format!("the target consolidated {images} into it: kept as it is").into();
            }
            Self::Consolidated { images, unproven: true } => {
                let images = count(*images as u64, "image");
                return format!(
                    "the target seems to have consolidated {images} into it (consolidated, unproven): kept as \
                     it is; `offsite target accept` settles it"
                )
                .into();
            }
            Self::Filtered(LeftOut::Kind) => "left out by the filter: its kind is not asked for",
            Self::Filtered(LeftOut::Format) => "left out by the filter: its format is not asked for",
            Self::Filtered(LeftOut::NotIncluded) => "left out by the filter: no include pattern names it",
            Self::Filtered(LeftOut::Excluded) => "left out by the filter: an exclude pattern names it",
            Self::SetBeforeBaseline => {
                "left out by the policy: its image set existed before the policy took effect"
            }
            Self::ImageBeforeBaseline => "left out by the policy: it existed before the policy took effect",
            Self::NotSettled(why) => return (*why).to_owned().into(),
            Self::FileNotSettled(path) => {
                return format!("its file '{}' is not finished yet", path.display()).into();
            }
            Self::CannotRead(why) => return (*why).to_owned().into(),
            Self::FileUnreadable(path) => {
                return format!("waits for its file '{}', which cannot be read", path.display()).into();
            }
            Self::SetNotSettled(path) => {
                return format!(
                    "waits until '{}', which is on the target and builds on it, is finished at the source",
                    path.display()
                )
                .into();
            }
            Self::ParentUnread => "its parent may be in a directory of the source that could not be read",
            Self::Waiting(parent) => return format!("waits for its ancestor '{}'", parent.display()).into(),
            Self::Unknown(why) => {
                return format!("was published, and whether the target still has it is not known: {why}")
                    .into();
            }
            Self::Stuck(why) => return format!("waits: {why}").into(),
            Self::Unlisted(dir) => {
                return format!(
                    "kept: gone at the source, but the target's listing of '{}' is not whole",
                    shown(dir)
                )
                .into();
            }
            Self::UnlistedSet(path) => {
                return format!(
                    "kept: gone at the source, but whether the target still has '{}' of the same set is not known",
                    path.display()
                )
                .into();
            }
            Self::NotRecognised(why) => return format!("{why}: left alone").into(),
            Self::LeftAlone(why) => return format!("never replicated: {why}").into(),
            Self::Refused(why) => return why.clone().into(),
            Self::Retained { until } => {
                return format!("the server keeps the target's file until {}", day(*until)).into();
            }
            Self::GoneAtSource => "gone at the source",
            Self::Absorbed { by } => {
                return format!("gone at the source, which consolidated it into '{}'", by.display()).into();
            }
            Self::Rotated { by } => {
                return format!("gone at the source with its whole set, and '{by}' takes its place").into();
            }
            Self::DeleteFirst { by, early: false } => {
                return format!(
                    "gone at the source with its whole set, and '{by}' takes its place; deleted before the copies, \
                     because --delete-first makes room"
                )
                .into();
            }
            Self::DeleteFirst { by, early: true } => {
                return format!(
                    "gone at the source with its whole set; deleted before '{by}', which takes its place, is published, \
                     because --delete-first makes room"
                )
                .into();
            }
            Self::DeleteLater { until } => {
                return format!(
                    "gone at the source; kept until {}, then deleted (delete_after)",
                    day(*until)
                )
                .into();
            }
            Self::MergeUnproven { by } => {
                return format!(
                    "kept: gone at the source, and nothing proves that '{}', which changed there, holds it \
                     (changed, unproven); `offsite target accept` settles it",
                    by.display()
                )
                .into();
            }
            Self::KeptNoSync => "gone at the source; kept, because this target does not mirror deletions",
            Self::KeptForeign => "not replicated by this job: left alone",
            Self::EmptySource => "kept: the source is empty, which may be a missing mount",
            Self::Unreadable(dir) => {
                return format!(
                    "kept: the source's directory '{}', where files of its set may be, could not be read",
                    dir.display()
                )
                .into();
            }
            Self::NothingLeft => {
                "kept: no image on this target is at the source any more, which may be a wrong mount"
            }
            Self::NoFileLeft => {
                "kept: none of this target's other files is at the source any more, which may be a wrong mount"
            }
            Self::LastOfLineage => {
                "kept: gone at the source, but without it its host's disk, or its folder, would have no restorable \
                 image here; 'offsite target allow-deletes' lets it go"
            }
            Self::SuccessorNotYet { by } => {
                return format!(
                    "kept until '{by}', which takes its place, is wholly published and restorable here"
                )
                .into();
            }
            Self::LastBeforeSuccessor { by } => {
                return format!(
                    "kept until '{by}', which takes its place, is published: it is the last restorable set here; \
                     --delete-first=last deletes it before"
                )
                .into();
            }
            Self::OwnUnfinished(path) => {
                return format!("kept until '{}', a file of its set, is finished", path.display()).into();
            }
            Self::OwnWaits(path) => {
                return format!("kept until '{}', an image of its set, is on the target", path.display())
                    .into();
            }
            Self::NotTwiceAbsent => "kept until a second scan, one settle time later, finds it absent again",
            Self::PlaceUnknown(place) => {
                let place = if place.is_root() { ".".into() } else { place.display() };
                return format!(
                    "kept: not at the source, where '{place}' is not what it was: nobody can say that it was deleted"
                )
                .into();
            }
            Self::TouchedGone => "kept: gone at the source, but somebody else changed it on the target",
            Self::Needed => "kept: gone at the source, but an image that stays on the target needs it",
            Self::Holds { image } => {
                return format!(
                    "kept: gone at the source, but the target consolidated it, and it holds '{}', which the source still has",
                    image.display()
                )
                .into();
            }
            Self::BelowSpan { by } => {
                return format!("kept: it lies below the target's consolidated image '{}'", by.display())
                    .into();
            }
            Self::ImageHeld => "kept until the image it belongs to is up to date",
            Self::OverDeleteLimit => {
                "kept: more would be deleted than max_delete allows; --allow-deletes lets this run do it"
            }
        })
    }
}

impl Incomplete<'_> {
    /// Appended to the reason.
    pub fn text(&self) -> String {
        match self {
            Self::LeftOut => {
                "; not restorable on its own, its ancestors are left out by filter or policy".into()
            }
            Self::Broken(what) | Self::Elsewhere(what) => {
                format!("; not restorable as far as can be seen: {what}")
            }
            Self::Another(ancestor) => format!(
                "; not restorable as far as can be seen: its ancestor '{}' is another one than it was published upon; \
                 `offsite target accept` settles it if the two belong together",
                ancestor.display()
            ),
            Self::Lacking(what) => format!("; not restorable as far as can be seen, the source lacks {what}"),
        }
    }
}

/// A day in UTC, from seconds since the Unix epoch.
fn day(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| format!("second {seconds}"), |t| t.strftime("%Y-%m-%d %H:%M UTC").to_string())
}
