//! What the user must see that is no step.

use offsite_plugin_api::TargetPath;

use super::index::Index;
use super::{Code, Notice, NoticeCode, Step, omitted};
use crate::chain::Problem;
use crate::target::shown;

/// Problems of the source's chains shown one by one; more are counted.
const PROBLEMS: usize = 20;

/// That images stay upon another ancestor than they were published upon.
pub(crate) fn another(count: usize, image: &TargetPath, ancestor: &TargetPath) -> Notice {
    let text = format!(
        "{count} images build on an ancestor that is another one than they were published upon, '{}' on '{}' for one: a \
         restore would mix two chains unless the two belong together; `offsite target accept` settles it",
        image.display(),
        ancestor.display()
    );
    Notice::new(NoticeCode::AncestorAltered, text)
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
    let more = index.input.target.incomplete.len().saturating_sub(PROBLEMS);
    if more > 0 {
        let text = format!("{more} more directories of the target are not listed wholly");
        say(NoticeCode::IncompleteListing, text);
    }
    let mut unknown = index.input.target.unknown.iter();
    if let Some((example, first)) = unknown.next() {
        let text = format!(
            "{} published files are not listed by the target, and whether it still has them is not known, '{}' for one \
             ({}): they are neither sent again nor deleted",
            unknown.count() + 1,
            example.display(),
            first.why
        );
        say(NoticeCode::Unknown, text);
    }
    let mut problems = index.input.source.problems.iter().filter(|p| !(p.gap && held_there(index, p)));
    for problem in problems.by_ref().take(PROBLEMS) {
        say(NoticeCode::Gap, format!("'{}': {}", problem.image.display(), problem.what));
    }
    let more = problems.count();
    if more > 0 {
        say(
            NoticeCode::Gap,
            format!("{more} more problems of the source's chains; `offsite chains` lists them"),
        );
    }
    let count = |code: Code| steps.iter().filter(|s| s.code == code).count();
    let example =
        |code: Code| steps.iter().find(|s| s.code == code).map(|s| s.image.display()).unwrap_or_default();
    let refused = count(Code::Refused);
    if refused > 0 {
        let text =
            format!("{refused} images cannot be held by the target, '{}' for one", example(Code::Refused));
        say(NoticeCode::Refused, text);
    }
    let unreadable = count(Code::Unreadable);
    if unreadable > 0 {
        let text = format!(
            "{unreadable} files of the source cannot be read, '{}' for one: {}; make them readable for the user that runs \
             offsite, or name them in ignore",
            example(Code::Unreadable),
            steps.iter().find(|s| s.code == Code::Unreadable).map(|s| s.reason.clone()).unwrap_or_default()
        );
        say(NoticeCode::UnreadableFile, text);
    }
    let damaged = count(Code::Damaged);
    if damaged > 0 {
        let text =
            format!("{damaged} images were damaged on the target, '{}' for one", example(Code::Damaged));
        say(NoticeCode::Damaged, text);
    }
    let unproven = count(Code::Unproven);
    if unproven > 0 {
        let text = format!(
            "{unproven} images are part of a consolidation on the target that nothing proves (consolidated, unproven), \
             '{}' for one; `offsite target accept` settles it",
            example(Code::Unproven)
        );
        say(NoticeCode::Unproven, text);
    }
    let changed = count(Code::ChangedUnproven);
    if changed > 0 {
        let text = format!(
            "{changed} images belong to a consolidation at the source that nothing proves (changed, unproven), '{}' for \
             one: nothing of it is deleted; `offsite target accept` settles it",
            example(Code::ChangedUnproven)
        );
        say(NoticeCode::ChangedUnproven, text);
    }
    let no_image = count(Code::NotAnImage);
    if no_image > 0 {
        let text = format!(
            "{no_image} files of the source are no images, though their names say so, '{}' for one: they are empty, or do \
             not begin as their format does; they are not sent",
            example(Code::NotAnImage)
        );
        say(NoticeCode::NotAnImage, text);
    }
    let mut lost = steps.iter().filter(|s| s.not_restorable);
    if let Some(first) = lost.next() {
        let (lost, example) = (lost.count() + 1, first.image.display());
        say(
            NoticeCode::NotRestorable,
            format!("{lost} images are not restorable on their own on this target, '{example}' for one"),
        );
    }
    notices.extend(omitted::notices(index));
    notices
}
