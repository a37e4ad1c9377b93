//! What a new image builds on where the source does not have that any more: the target still may. Its chains, assembled with
//! the source's new images among them, say what each hangs on there. That makes it whole only where the record of the target's
//! image proves what lies there: it has a digest, and nobody touched the file since.

use std::collections::HashMap;

use offsite_plugin_api::{Entry, TargetPath};

use super::decide::DecidedSet;
use super::index::{At, Index};
use crate::chain::{Image, Parent};
use crate::format::{self, Link};
use crate::target::TargetFile;

/// By the new image's path on the target: the image of the target that it will hang on.
pub(crate) fn attached(index: &Index<'_>) -> HashMap<TargetPath, At> {
    let new = newcomers(index);
    if new.is_empty() || index.input.target.files.is_empty() {
        return HashMap::new();
    }
    let anchors: Vec<TargetPath> = new.iter().map(|(anchor, _)| anchor.clone()).collect();
    let view = index.input.target.with(new.into_iter().flat_map(|(_, files)| files).collect());
    let mut attached = HashMap::new();
    for set in &view.chains().sets {
        for image in &set.images {
            if let Parent::Image(parent) = image.parent
                && anchors.binary_search(&image.id).is_ok()
                && let Some(at) = index.target_image(&set.images[parent].id)
            {
                attached.insert(image.id.clone(), at);
            }
        }
    }
    attached
}

/// Whether the target may have what an image builds on and the source has not: its parent is missing there; or time alone
/// orders it, where an image that was removed between two others does not show.
pub(crate) fn may_attach(index: &Index<'_>, image: &Image) -> bool {
    match image.parent {
        Parent::Missing(_) => true,
        Parent::Image(_) => {
            let link = || index.position(&image.id, 0).and_then(|at| index.file(at).recognised.as_ref());
            index.any_unmatched()
                && link().is_some_and(|r| matches!(r.link, Link::Time | Link::Moment { reverse: false, .. }))
        }
        _ => false,
    }
}

/// Images that the target does not have and that [`may_attach`]: their anchors on the target, sorted, with all
/// their files as they would be listed there.
fn newcomers(index: &Index<'_>) -> Vec<(TargetPath, Vec<TargetFile>)> {
    let mut found = Vec::new();
    for set in &index.input.source.sets {
        let mut near = 0;
        for image in set.images.iter().filter(|image| may_attach(index, image)) {
            let place = index.place(set);
            let anchor = index.target_path(&place, &image.id);
            if index.input.target.files.get(&anchor).is_some() {
                continue;
            }
            let files = image.files.iter().filter_map(|file| {
                let at = index.position(&file.path, near)?;
                near = at;
                let (path, source) = (index.target_path(&place, &file.path), index.file(at));
                let recognised = match place.is_root() {
                    true => source.recognised.clone(),
                    false => format::recognise_name(&path),
                };
                let mtime = offsite_plugin_api::Timestamp { ns: source.mtime_ns, precision_ns: 1 };
                let entry = Entry { mtime: Some(mtime), ..Entry::file(path, source.size) };
                Some(TargetFile { recognised: recognised.map(Box::new), ..TargetFile::from(entry) })
            });
            found.push((anchor, files.collect()));
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

/// The target's image that the header of the source's image `i` names as its parent, where only the target has that.
pub(crate) fn named(index: &Index<'_>, decided: &DecidedSet<'_>, i: usize) -> Option<At> {
    let Link::File(parent) = &index.file(decided.images[i].anchor).recognised.as_ref()?.link else {
        return None;
    };
    let at = index.target_image(&index.target_path(&decided.place, parent))?;
    (!decided.source_of.contains_key(&at)).then_some(at)
}

/// Whether a record proves what lies there.
pub(crate) fn proved(index: &Index<'_>, image: &Image) -> bool {
    let file = index.input.target.files.get(&image.id);
    let recorded = file.and_then(|file| Some((file, file.recorded.as_deref()?)));
    recorded.is_some_and(|(file, record)| record.blake3.is_some() && !record.touched(&file.entry))
}
