//! Is the target's file the source's? Judged from the record of what was published, the source file as it is now, and
//! the target's entry as it is now: values only, nothing is read.

use crate::source::{SourceFile, same_mtime};
use crate::target::{Recorded, TargetFile};

/// What the target has under a source file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing. `published`: a record says that there was something.
    Absent { published: bool },
    /// The source's file, untouched since it was published.
    Same,
    /// As `Same` by size and time, but the source's change time moved: a rewrite that kept the modification time shows
    /// only there.
    Rewritten,
    /// Recorded, but its content was never compared.
    Unread,
    /// The source changed since the publish.
    SourceChanged,
    /// Somebody else changed the target's entry; the source did not change.
    Touched { same_size: bool },
    /// There without a record.
    Unrecorded { same_size: bool },
}

/// `gone`: the record of a file that is not listed any more.
pub(crate) fn compare(file: &SourceFile, target: Option<&TargetFile>, gone: bool) -> Found {
    let Some(target) = target else {
        return Found::Absent { published: gone };
    };
    let same_size = target.entry.size == file.size;
    let Some(recorded) = &target.recorded else {
        return Found::Unrecorded { same_size };
    };
    let touched = recorded.touched(&target.entry);
    if source_changed(file, recorded) {
        // A record of a consolidated file has another size than the source's image, and the same time.
        return if touched && same_mtime(file.mtime_ns, recorded.source_mtime_ns) {
            Found::Touched { same_size }
        } else {
            Found::SourceChanged
        };
    }
    if touched {
        return Found::Touched { same_size };
    }
    if recorded.blake3.is_none() {
        return Found::Unread;
    }
    // An inode alone says nothing: network shares renumber at every mount. A rename over the name moves the change
    // time too.
    if recorded.source_ctime_ns != 0 && file.ctime_ns != 0 && recorded.source_ctime_ns != file.ctime_ns {
        return Found::Rewritten;
    }
    Found::Same
}

pub(crate) fn source_changed(file: &SourceFile, recorded: &Recorded) -> bool {
    file.size != recorded.size || !same_mtime(file.mtime_ns, recorded.source_mtime_ns)
}
