//! Debris: staged bytes that nobody will resume, and what swaps left that no intent knows of any more.
//!
//! Only this installation's own is touched; foreign staging is reported. An old file that waits beside its name is never
//! deleted unless its name holds a recorded file again, and that was read back; where the name is empty it is put back.

use offsite_plugin_api::{Entry, ErrorKind, Expect, StagedInfo, TargetPath};

use super::names::{self, Own};
use super::site::{Site, of_target};
use super::{Recorded, Survey, manifest, whole};
use crate::catalog::StagedFile;
use crate::error::Result;
use crate::run::killpoint;

/// Seconds after which an upload of nobody's is one that was left.
const LEFT: u64 = 24 * 3600;

/// Staging of somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// As far as the target tells; empty where it does not.
    pub owner: String,
    pub path: Option<TargetPath>,
    pub bytes: u64,
    /// Seconds since it last changed.
    pub age: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Own stagings discarded, and their bytes.
    pub discarded: u64,
    pub discarded_bytes: u64,
    /// Foreign stagings.
    pub foreign: Vec<Foreign>,
    /// What happened to side names, and what was left and why; in words.
    pub said: Vec<String>,
}

/// Puts side names right that no open intent knows of. Call it after [`super::intent::settle`] and before the view is
/// planned from (survey again when it gives anything but an empty list).
pub fn sides(site: &Site<'_>, survey: &Survey) -> Result<Vec<String>> {
    let mut said = Vec::new();
    let view = &survey.view;
    for side in &survey.listing.sides {
        let Some(Own::Side { owner, hash }) = names::parse(&side.path) else { continue };
        let shown = side.path.display();
        if owner != site.installation {
            said.push(format!("{shown} was left by a swap of another installation: it is left alone"));
            continue;
        }
        let dir = side.path.parent();
        let candidates = view.files.keys().chain(view.gone.keys());
        let Some(path) = candidates.filter(|p| p.parent() == dir).find(|p| names::is_side_of(&hash, p))
        else {
            said.push(format!(
                "{shown} was left by a swap of a file that is not known any more: it is left alone"
            ));
            continue;
        };
        if site.catalog.intents()?.iter().any(|i| i.steps.iter().any(|(_, s)| s.path() == path)) {
            continue;
        }
        let name = path.display();
        let verified = |record: &Recorded, entry: &Entry| record.blake3.is_some() && !record.touched(entry);
        match view.files.get(path) {
            None => {
                site.backend.rename(site.call, &side.path, path, &Expect::Absent)?;
                killpoint::reach("sweep.after-restore");
                said.push(format!("{name} was restored from {shown}"));
            }
            Some(file) if file.recorded.as_ref().is_some_and(|r| verified(r, &file.entry)) => {
                // Nobody knows any more how the swap ended: a record may be a manifest's, and of another day.
                let recorded = file.recorded.as_deref();
                match recorded.map_or(Ok(false), |r| whole::is(site, path, r.size, r.blake3)) {
                    Ok(true) => {
                        drop_file(site, side)?;
                        said.push(format!("{shown} was removed: {name} holds a verified file"));
                    }
                    Ok(false) => {
                        said.push(format!("{shown} stays: {name} is not the file that was recorded"))
                    }
                    Err(error) if of_target(&error) => return Err(error),
                    Err(error) => said.push(format!("{shown} stays: {name} cannot be read back: {error}")),
                }
            }
            Some(_) => {
                said.push(format!("{shown} stays: what {name} holds is not verified yet"));
            }
        }
    }
    Ok(said)
}

fn drop_file(site: &Site<'_>, entry: &Entry) -> Result<()> {
    match site.backend.delete(site.call, &entry.path, &Expect::Any) {
        Err(e) if *e.kind() != ErrorKind::NotFound => Err(e.into()),
        _ => {
            killpoint::reach("sweep.after-delete");
            Ok(())
        }
    }
}

/// Discards own stagings that nobody resumes, reports foreign ones, deletes superfluous manifests. `resumed`: whether the
/// plan stages this path (on the target) in this run; call it after planning.
pub fn sweep(site: &Site<'_>, survey: &Survey, resumed: &dyn Fn(&TargetPath) -> bool) -> Result<Swept> {
    let mut swept = Swept::default();
    let mut rows = Vec::new();
    for row in site.catalog.staged()? {
        if resumed(&row.path) {
            rows.push(row);
            continue;
        }
        if let Some(token) = &row.token {
            site.backend.discard(site.call, token)?;
            swept.discarded += 1;
            swept.discarded_bytes += row.ranges.iter().map(|r| r.length).sum::<u64>();
            killpoint::reach("sweep.after-discard");
        }
        site.catalog.drop_staged(&row.path)?;
    }
    let found = match site.backend.list_staged(site.call, &TargetPath::root()) {
        Ok(found) => found,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Unsupported) => Vec::new(),
        Err(e) => return Err(e.into()),
    };
    for info in &found {
        if info.path.as_ref().is_some_and(|path| survey.listing.is_foreign(path)) {
            continue;
        }
        let owner = owner_of(info);
        let own = if owner.is_empty() { nobodys(survey, resumed, info) } else { owner == site.installation };
        if !own {
            swept.foreign.push(Foreign { owner, path: info.path.clone(), bytes: info.bytes, age: info.age });
        } else if !is_kept(&rows, info, &found) {
            site.backend.discard(site.call, &info.token)?;
            swept.discarded += 1;
            swept.discarded_bytes += info.bytes;
            killpoint::reach("sweep.after-discard");
        }
    }
    manifest::prune(site, &survey.listing.manifests)?;
    Ok(swept)
}

/// Whether a staging of which the server tells no owner (an unfinished multipart upload) is this installation's. The
/// claim marker makes the target this job's alone, so one for a name that this job writes is. Another name may be some
/// tool's that is uploading at this moment: that one must have been left for a day.
fn nobodys(survey: &Survey, resumed: &dyn Fn(&TargetPath) -> bool, info: &StagedInfo) -> bool {
    let view = &survey.view;
    let written = |path: &TargetPath| {
        resumed(path)
            || view.gone.contains_key(path)
            || view.unknown.contains_key(path)
            || view.files.recorded(path).is_some()
    };
    info.path.as_ref().is_some_and(written) || info.age.is_some_and(|age| age >= LEFT)
}

/// By what it was staged with, else by its name.
fn owner_of(info: &StagedInfo) -> String {
    if !info.owner.is_empty() {
        return info.owner.clone();
    }
    match info.path.as_ref().and_then(names::parse) {
        Some(Own::Staging { owner, .. }) => owner,
        _ => String::new(),
    }
}

/// Whether this is what a resumed staging goes on from. One that was never checkpointed is recognised by its staging name;
/// by the image's path only while there is a checkpoint, for nothing can go on with an upload whose token was not kept. Of
/// several for one path the one that was checkpointed stays.
fn is_kept(rows: &[StagedFile], info: &StagedInfo, all: &[StagedInfo]) -> bool {
    rows.iter().any(|row| {
        if row.token.as_ref() == Some(&info.token) {
            return true;
        }
        let same_path =
            info.path.as_ref().is_some_and(|p| *p == row.staging || (*p == row.path && row.token.is_some()));
        let checkpointed_is_there = all.iter().any(|i| row.token.as_ref() == Some(&i.token));
        same_path && !checkpointed_is_there
    })
}
