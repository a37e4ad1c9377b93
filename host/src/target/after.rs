//! The target as a run left it: what was listed at its beginning, with what it published and deleted since. Nothing is
//! listed again; the catalog recorded every publish with the entry that the server gave for it.

use std::collections::BTreeMap;

use offsite_plugin_api::{Entry, TargetPath};

use super::{Files, Gathered, Learned, Recorded, TargetFile, TargetView, consolidated, evidence, intent};
use crate::catalog::Catalog;
use crate::error::Result;

/// `before`: as surveyed. `touched`: the paths that the run may have changed.
pub fn after<'a>(
    before: TargetView,
    catalog: &Catalog,
    touched: impl IntoIterator<Item = &'a TargetPath>,
) -> Result<TargetView> {
    let mut records = catalog.published()?;
    // What nobody could look for is no more gone than it was, and no run touches it.
    let mut unknown = before.unknown;
    unknown.retain(|path, _| records.remove(path).is_some());
    let mut changed = BTreeMap::new();
    let mut vouched = before.vouched;
    for path in touched {
        let then = before.files.recorded(path).or_else(|| before.gone.get(path).map(|r| &**r));
        let now = records.get(path).map(|r| &**r);
        if then != now {
            // What was published is our own word, not a manifest's.
            vouched.remove(path);
            changed.insert(path, now);
        }
    }
    let (open, sets) = intent::open_intents(catalog)?;
    let mut bad = before.bad;
    bad.retain(|path, _| !changed.contains_key(path));
    let mut headers = BTreeMap::new();
    let mut files = Vec::with_capacity(before.files.len());
    for file in before.files.into_files() {
        if changed.contains_key(&file.entry.path) {
            continue;
        }
        if let Some(recognised) = file.recognised {
            headers.insert(file.entry.path.clone(), *recognised);
        }
        files.push(TargetFile::from(file.entry));
    }
    let published = changed.into_iter().filter_map(|(path, now)| Some((path, now?)));
    files.extend(published.map(|(path, record)| TargetFile::from(entry(path, record))));
    let files = Files::listed(files);
    let accepted = consolidated::still_accepted(catalog, &files, &records, &mut Learned::default())?;
    let absorbed = consolidated::absorbed(catalog, &files, &records)?;
    let spans = catalog.spans()?;
    let mut view = evidence::view(Gathered { files, records, headers, spans, accepted, open, bad, absorbed });
    view.in_transition.extend(sets);
    view.parents_known = catalog.parents_learned()?;
    view.vouched = vouched;
    view.unknown = unknown;
    view.incomplete = before.incomplete;
    view.folds = before.folds;
    Ok(view)
}

/// The entry right after the publish.
fn entry(path: &TargetPath, record: &Recorded) -> Entry {
    Entry {
        version: record.target_version.clone(),
        mtime: record.target_mtime,
        ..Entry::file(path.clone(), record.size)
    }
}
