//! What the user must see that is no step.

use super::index::Index;
use super::{Code, Notice, Step};

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
            "the source's directory '{}' could not be read ({why}): what is in it is not replicated, and nothing \
             is deleted that may belong to it",
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
    notices
}
