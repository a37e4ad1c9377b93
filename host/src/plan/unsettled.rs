//! What is said of a file that cannot be taken now: that the next run takes it, that it cannot be read, or that nobody asked
//! for it. What the plan would not copy waits for nothing, however long it is being written.

use offsite_plugin_api::TargetPath;

use super::explain::Reason;
use super::index::Index;
use super::policy;
use crate::format::{self, Recognised, Role};
use crate::source::{Cause, Unsettled};

pub(crate) fn reason<'a>(index: &Index<'a>, unsettled: &'a Unsettled) -> Reason<'a> {
    if let Some(reason) = left_out(index, unsettled) {
        return reason;
    }
    match unsettled.cause {
        Cause::Unreadable => Reason::CannotRead(&unsettled.reason),
        Cause::Unsettled | Cause::InProgress | Cause::InUse => Reason::NotSettled(&unsettled.reason),
    }
}

fn left_out<'a>(index: &Index<'a>, unsettled: &'a Unsettled) -> Option<Reason<'a>> {
    let path = &unsettled.path;
    let options = index.input.options;
    let known = format::recognise_name(path);
    let (image, what) = match &known {
        Some(recognised) => {
            let image = anchor(index, path, recognised);
            (image, index.filter.image(image, Some((recognised.format, recognised.kind))))
        }
        // A header that nobody has read yet may make an image of it; of any kind.
        None if format::wants_header(path) => (path, index.filter.path(path)),
        None if unsettled.cause == Cause::InProgress => {
            return Some(Reason::LeftAlone(&unsettled.reason));
        }
        None if !options.include_other => return Some(Reason::NotRecognised("no format knows it")),
        None => (path, index.filter.image(path, None)),
    };
    if let Some(out) = what {
        return Some(Reason::Filtered(out));
    }
    policy::image_left_out(options.policy, &index.baseline, image).then_some(Reason::ImageBeforeBaseline)
}

/// The file that the user's filter is asked about: side-cars and parts go with their image.
fn anchor<'a>(index: &Index<'a>, path: &'a TargetPath, own: &Recognised) -> &'a TargetPath {
    if !matches!(own.role, Role::SideCar | Role::Part(_)) {
        return path;
    }
    let is = |other: &Recognised| {
        matches!(other.role, Role::Anchor | Role::Running(_))
            && other.set == own.set
            && other.image == own.image
    };
    let settled = index.input.inventory.files.iter();
    let mut settled = settled.filter(|f| f.recognised.as_ref().is_some_and(is)).map(|f| &f.path);
    let unfinished = || index.unfinished.iter().find(|(other, _)| is(other)).map(|(_, path)| *path);
    settled.next().or_else(unfinished).unwrap_or(path)
}
