//! What the user must see that is no step.

use super::index::Index;
use super::{Code, Notice, Step, omitted};

/// The codes of notices about what the source holds and is not replicated; those of [`WARNINGS`] are shown as warnings.
pub(crate) mod codes {
    /// A file system of the source is not mounted, or another one is.
    pub const NOT_MOUNTED: &str = "not-mounted";
    /// A folder that was replicated is a symbolic link now.
    pub const LINK_INSTEAD: &str = "link-instead";
    /// Symbolic links.
    pub const LINKS: &str = "links";
    /// Names that hold a line break.
    pub const BAD_NAMES: &str = "bad-names";
    /// Gone at the source since the memory of it was lost, with no proof.
    pub const UNPROVEN_ABSENCE: &str = "unproven-absence";
    /// Files with an image's extension that no format knows.
    pub const UNKNOWN_IMAGES: &str = "unknown-images";
    /// Folders without any image.
    pub const UNKNOWN_FOLDERS: &str = "unknown-folders";
    /// Other files that no format knows.
    pub const UNKNOWN_FILES: &str = "unknown-files";
    /// Sizeable files, and no image among them.
    pub const NOTHING_RECOGNISED: &str = "nothing-recognised";
    /// A file that cannot be read.
    pub const UNREADABLE_FILE: &str = "unreadable-file";

    pub const WARNINGS: [&str; 6] =
        [NOT_MOUNTED, LINK_INSTEAD, BAD_NAMES, UNPROVEN_ABSENCE, UNKNOWN_IMAGES, UNKNOWN_FOLDERS];
}

/// Whether a notice of this code is a warning: something is left out that a user would not expect. It never changes the exit
/// code.
pub fn is_warning(code: &str) -> bool {
    codes::WARNINGS.contains(&code)
}

/// Problems of the source's chains shown one by one; more are counted.
const PROBLEMS: usize = 20;

/// `steps`: the finished plan's.
pub(crate) fn notices(index: &Index<'_>, steps: &[Step]) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut say = |code: &str, text: String, failing: bool| {
        notices.push(Notice { code: code.into(), text, failing });
    };
    for open in &index.input.target.open {
        say("unfinished", format!("settled first: {open}"), false);
    }
    for (dir, why) in &index.input.inventory.unreadable {
        let text = format!(
            "the source's directory '{}' could not be read ({why}): its images are not replicated, and nothing is deleted",
            dir.display()
        );
        say("unreadable", text, true);
    }
    for problem in index.input.source.problems.iter().take(PROBLEMS) {
        say("gap", format!("'{}': {}", problem.image.display(), problem.what), false);
    }
    let more = index.input.source.problems.len().saturating_sub(PROBLEMS);
    if more > 0 {
        say(
            "gap",
            format!("{more} more problems of the source's chains; `offsite chains` lists them"),
            false,
        );
    }
    let count = |code: Code| steps.iter().filter(|s| s.code == code).count();
    let example =
        |code: Code| steps.iter().find(|s| s.code == code).map(|s| s.image.display()).unwrap_or_default();
    let refused = count(Code::Refused);
    if refused > 0 {
        let text =
            format!("{refused} images cannot be held by the target, '{}' for one", example(Code::Refused));
        say("refused", text, true);
    }
    let unreadable = count(Code::Unreadable);
    if unreadable > 0 {
        let text = format!(
            "{unreadable} files of the source cannot be read, '{}' for one: {}; make them readable for the user that runs \
             offsite, or name them in ignore",
            example(Code::Unreadable),
            steps.iter().find(|s| s.code == Code::Unreadable).map(|s| s.reason.clone()).unwrap_or_default()
        );
        say(codes::UNREADABLE_FILE, text, true);
    }
    let damaged = count(Code::Damaged);
    if damaged > 0 {
        let text =
            format!("{damaged} images were damaged on the target, '{}' for one", example(Code::Damaged));
        say("damaged", text, false);
    }
    let unproven = count(Code::Unproven);
    if unproven > 0 {
        let text = format!(
            "{unproven} images are part of a consolidation on the target that nothing proves (consolidated, unproven), \
             '{}' for one; `offsite target accept` settles it",
            example(Code::Unproven)
        );
        say("unproven", text, false);
    }
    let lost = steps.iter().filter(|s| s.not_restorable).count();
    if lost > 0 {
        say("not-restorable", format!("{lost} images are not restorable on their own on this target"), false);
    }
    notices.extend(omitted::notices(index));
    notices
}
