//! What the user must see that is no step.

use std::collections::HashSet;

use offsite_plugin_api::TargetPath;

use super::index::Index;
use super::{Code, Notice, NoticeCode, Step, omitted};
use crate::chain::Problem;
use crate::report::{count, word};
use crate::target::shown;

/// Problems of the source's chains shown one by one; more are counted.
const PROBLEMS: usize = 20;

/// That images stay upon another ancestor than they were published upon.
pub(crate) fn another(number: u64, image: &TargetPath, ancestor: &TargetPath) -> Notice {
    let text = format!(
        "{} on an ancestor that is another one than {} published upon, '{}' on '{}' for one: a restore would mix two chains \
         unless the two belong together; `offsite target accept` settles it",
        said(number, "image", "builds", "build"),
        word(number, "it was", "they were"),
        image.display(),
        ancestor.display()
    );
    Notice::new(NoticeCode::AncestorAltered, text)
}

/// `1 image is`, `2 images are`.
fn said(number: u64, what: &str, one: &str, several: &str) -> String {
    format!("{} {}", count(number, what), word(number, one, several))
}

/// That nothing proves what images of the source took in.
pub(crate) fn changed_unproven(number: u64, example: &str) -> String {
    format!(
        "{} to a consolidation at the source that nothing proves (changed, unproven), '{example}' for one: nothing of it is \
         deleted; `offsite target accept` settles it",
        said(number, "image", "belongs", "belong")
    )
}

/// Whether the target knows that its image holds what the source's lacks: what was merged is no gap, and would be told for
/// ever.
fn held_there(index: &Index<'_>, problem: &Problem) -> bool {
    let sets = &index.input.source.sets;
    let Ok(set) = sets.binary_search_by(|s| s.id.as_str().cmp(&problem.set)) else { return false };
    let path = index.target_path(&index.place(&sets[set]), &problem.image);
    index.target_image(&path).is_some_and(|at| {
        let image = index.at(at);
        image.restorable && !image.unproven && image.span.is_some_and(|s| s.first < s.last)
    })
}

/// `steps`: the finished plan's.
pub(crate) fn notices(index: &Index<'_>, steps: &[Step]) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut say = |code: NoticeCode, text: String| notices.push(Notice::new(code, text));
    for open in &index.input.target.open {
        say(NoticeCode::Unfinished, format!("settled first: {open}"));
    }
    for (dir, why) in &index.input.inventory.unreadable {
        let text = format!(
            "the source's directory '{}' could not be read ({why}): what is in it is not replicated, and nothing \
             is deleted that may belong to it",
            dir.display()
        );
        say(NoticeCode::Unreadable, text);
    }
    for stuck in index.input.target.stuck.iter().take(PROBLEMS) {
        say(NoticeCode::Unsettled, format!("{}; its images wait, the others go on", stuck.why));
    }
    for (dir, why) in index.input.target.incomplete.iter().take(PROBLEMS) {
        let text = format!(
            "the target's listing of '{}' is not whole ({why}): nothing in it is taken for gone, and nothing in it is deleted",
            shown(dir)
        );
        say(NoticeCode::IncompleteListing, text);
    }
    let more = index.input.target.incomplete.len().saturating_sub(PROBLEMS) as u64;
    if more > 0 {
        let which = count(more, "more directory");
        let text = format!("{which} of the target {} not listed wholly", word(more, "is", "are"));
        say(NoticeCode::IncompleteListing, text);
    }
    let between = &index.input.target.in_transition;
    if let Some(set) = between.first() {
        let text = format!(
            "{} between old and new on the target, {set} for one: nothing of {} is restorable there until all that \
             differs is replaced; a run goes on with that",
            said(between.len() as u64, "set", "is", "are"),
            word(between.len() as u64, "it", "them")
        );
        say(NoticeCode::InTransition, text);
    }
    let mut unknown = index.input.target.unknown.iter();
    if let Some((example, first)) = unknown.next() {
        let number = unknown.count() as u64 + 1;
        let text = format!(
            "{} not listed by the target, and whether it still has {} is not known, '{}' for one ({}): {} neither sent \
             again nor deleted",
            said(number, "published file", "is", "are"),
            word(number, "it", "them"),
            example.display(),
            first.why,
            word(number, "it is", "they are")
        );
        say(NoticeCode::Unknown, text);
    }
    // What is no image is told below, and what it lacks is no matter then.
    let no_images: HashSet<&TargetPath> =
        steps.iter().filter(|s| s.code == Code::NotAnImage).map(|s| &s.image).collect();
    let told_below = |p: &&Problem| !no_images.is_empty() && no_images.contains(&p.image);
    let problems = index.input.source.problems.iter();
    let mut problems = problems.filter(|p| !(told_below(p) || p.gap && held_there(index, p)));
    for problem in problems.by_ref().take(PROBLEMS) {
        say(NoticeCode::Gap, format!("'{}': {}", problem.image.display(), problem.what));
    }
    let more = problems.count() as u64;
    if more > 0 {
        say(
            NoticeCode::Gap,
            format!(
                "{} of the source's chains; `offsite chains` lists {}",
                count(more, "more problem"),
                word(more, "it", "them")
            ),
        );
    }
    let number = |code: Code| steps.iter().filter(|s| s.code == code).count() as u64;
    let example =
        |code: Code| steps.iter().find(|s| s.code == code).map(|s| s.image.display()).unwrap_or_default();
    let refused = number(Code::Refused);
    if refused > 0 {
        let text = format!(
            "{} cannot be held by the target, '{}' for one",
            count(refused, "image"),
            example(Code::Refused)
        );
        say(NoticeCode::Refused, text);
    }
    let unreadable = number(Code::Unreadable);
    if unreadable > 0 {
        let text = format!(
            "{} of the source cannot be read, '{}' for one: {}; make {them} readable for the user that runs offsite, or \
             name {them} in ignore",
            count(unreadable, "file"),
            example(Code::Unreadable),
            steps.iter().find(|s| s.code == Code::Unreadable).map(|s| s.reason.clone()).unwrap_or_default(),
            them = word(unreadable, "it", "them")
        );
        say(NoticeCode::UnreadableFile, text);
    }
    let damaged = number(Code::Damaged);
    if damaged > 0 {
        let text = format!(
            "{} damaged on the target, '{}' for one",
            said(damaged, "image", "was", "were"),
            example(Code::Damaged)
        );
        say(NoticeCode::Damaged, text);
    }
    let unproven = number(Code::Unproven);
    if unproven > 0 {
        let text = format!(
            "{} part of a consolidation on the target that nothing proves (consolidated, unproven), '{}' for one; \
             `offsite target accept` settles it",
            said(unproven, "image", "is", "are"),
            example(Code::Unproven)
        );
        say(NoticeCode::Unproven, text);
    }
    let changed = number(Code::ChangedUnproven);
    if changed > 0 {
        say(NoticeCode::ChangedUnproven, changed_unproven(changed, &example(Code::ChangedUnproven)));
    }
    let no_image = number(Code::NotAnImage);
    if no_image > 0 {
        let text = format!(
            "{} though {}, '{}' for one: {}; {} not sent",
            said(no_image, "source file", "is no image", "are no images"),
            word(no_image, "its name says so", "their names say so"),
            example(Code::NotAnImage),
            word(
                no_image,
                "it is empty, or does not begin as its format does",
                "they are empty, or do not begin as their formats do"
            ),
            word(no_image, "it is", "they are")
        );
        say(NoticeCode::NotAnImage, text);
    }
    let mut lost = steps.iter().filter(|s| s.not_restorable);
    if let Some(first) = lost.next() {
        let (lost, example) = (lost.count() as u64 + 1, first.image.display());
        let (they, own) = (said(lost, "image", "is", "are"), word(lost, "its", "their"));
        say(
            NoticeCode::NotRestorable,
            format!("{they} not restorable on {own} own on this target, '{example}' for one"),
        );
    }
    notices.extend(omitted::notices(index));
    notices
}
