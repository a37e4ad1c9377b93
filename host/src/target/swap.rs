//! Making one staged file visible, replacing what has the name: in one act where the server can, else by the journalled
//! swap (old -> side name, new -> name, verify, delete old).
//!
//! Also how an interrupted one is understood: from what has the name, the side name and the staging, and from nothing
//! else, so that it does not matter where or how often it was interrupted.

use std::sync::Arc;

use offsite_plugin_api::{Entry, ErrorKind, Expect, PublishRequest, Replace, Source, TargetPath};

use super::site::Site;
use super::{names, whole};
use crate::catalog::{PublishStep, Was};
use crate::error::{Error, Kind, Result};
use crate::run::killpoint;

/// How far a step is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The old file (or nothing) has the name.
    Before,
    /// Nothing has the name, the old file is beside it.
    Gap,
    /// The new file has the name, the old one is still beside it.
    Beside(Entry),
    /// The new file has the name.
    After(Entry),
    /// Something has the name of which it cannot be said whether it is the old or the new file.
    Unknown,
}

/// Looks at the names of a step.
pub(super) fn look(site: &Site<'_>, step: &PublishStep) -> Result<(State, bool)> {
    let at = site.file(&step.path)?;
    let side = match &step.side {
        Some(side) => site.file(side)?,
        None => None,
    };
    let staged = site.staged(&step.token)?.is_some();
    Ok((state(step, at, side.is_some(), staged), staged))
}

/// Whether what has the name is by its time the file that was published. Its size is, and the staging is used up; but days
/// may have passed since, and others may have put a file of that size there.
pub(super) fn looks_ours(step: &PublishStep, state: &State) -> bool {
    let (State::Beside(entry) | State::After(entry)) = state else { return true };
    match (step.attributes.mtime, entry.mtime) {
        (Some(sent), Some(found)) => {
            found.ns.abs_diff(sent.ns) < found.precision_ns.max(sent.precision_ns).max(1)
        }
        _ => false,
    }
}

/// A state in which the new file has the name holds after an interruption only if the file is read back whole as it was
/// staged. If it is not, and the old one is still beside it, the bad one is taken down: the swap is open again. Without
/// an old one the name is of unknown origin.
pub(super) fn proved(site: &Site<'_>, step: &PublishStep, state: State) -> Result<State> {
    let (State::Beside(entry) | State::After(entry)) = &state else { return Ok(state) };
    if whole::is(site, &step.path, step.record.size, step.record.blake3)? {
        return Ok(state);
    }
    if matches!(state, State::After(_)) {
        return Ok(State::Unknown);
    }
    take_down(site, entry)?;
    Ok(State::Gap)
}

fn state(step: &PublishStep, at: Option<Entry>, side: bool, staged: bool) -> State {
    let Some(entry) = at else { return if side { State::Gap } else { State::Before } };
    if staged {
        // The staging is still there: its publish did not happen, whatever has the name.
        return State::Before;
    }
    let is_old = step.before.as_ref().is_some_and(|was| was.still(&entry));
    // Versions differ between any two contents; sizes and times need not.
    let certain =
        is_old && step.before.as_ref().is_some_and(|was| was.version.is_some()) && entry.version.is_some();
    if certain {
        return State::Before;
    }
    if entry.size != step.record.size {
        return State::Unknown;
    }
    match (side, is_old) {
        // The old file was moved to a side name that was free, and the staging is used up: only ours can have the name.
        (true, _) => State::Beside(entry),
        (false, false) => State::After(entry),
        (false, true) => State::Unknown,
    }
}

/// The side name for a step that replaces `before` on this target: `None` where replacing is one act. A side name that is
/// taken (left by a swap nobody knows of any more) is passed over; the sweep deals with it.
pub(super) fn side_for(
    site: &Site<'_>,
    path: &TargetPath,
    before: Option<&Was>,
) -> Result<Option<TargetPath>> {
    if before.is_none() || site.capabilities.replace == Replace::Atomic {
        return Ok(None);
    }
    for number in 0..names::SIDES {
        let side = names::side(path, site.installation, number)?;
        if site.file(&side)?.is_none() {
            return Ok(Some(side));
        }
    }
    Err(Error::new(Kind::Backend(ErrorKind::Exists), "every side name for replacing this file is taken")
        .on(path.display())
        .hint("look at the files that end in .old beside it, and remove what is not needed"))
}

/// Carries a step out from the beginning: what has the name is what was expected.
pub(super) fn act(site: &Site<'_>, step: &PublishStep, source: Arc<dyn Source>) -> Result<Entry> {
    let Some(side) = &step.side else {
        let expect = match &step.before {
            None => Expect::Absent,
            Some(Was { version: Some(version), .. }) if site.capabilities.conditional_publish => {
                Expect::Version(version.clone())
            }
            Some(_) => Expect::Any,
        };
        let entry = publish(site, step, source, expect)?;
        if let Err(error) = checked(step, &entry) {
            // No reader is to take it for the file. A replaced file's old content is gone: the next run sends it again.
            if step.before.is_none() {
                take_down(site, &entry)?;
            }
            return Err(error);
        }
        return Ok(entry);
    };
    site.backend.rename(site.call, &step.path, side, &Expect::Absent)?;
    killpoint::reach("swap.after-aside");
    fill_gap(site, step, side, source)
}

/// Second half of a swap: nothing has the name, the old file is at `side`.
pub(super) fn fill_gap(
    site: &Site<'_>,
    step: &PublishStep,
    side: &TargetPath,
    source: Arc<dyn Source>,
) -> Result<Entry> {
    publish(site, step, source, Expect::Absent)?;
    let entry = site
        .file(&step.path)?
        .ok_or_else(|| Error::new(Kind::Verify, "a published file is not there").on(step.path.display()))?;
    if let Err(error) = checked(step, &entry) {
        take_down(site, &entry)?;
        put_back(site, side, &step.path)?;
        return Err(error);
    }
    killpoint::reach("swap.after-verify");
    drop_side(site, side)?;
    Ok(entry)
}

/// Last act of a swap: the new file is verified. Repeating it is harmless.
pub(super) fn drop_side(site: &Site<'_>, side: &TargetPath) -> Result<()> {
    match site.backend.delete(site.call, side, &Expect::Any) {
        Err(e) if !matches!(e.kind(), ErrorKind::NotFound) => return Err(e.into()),
        _ => {}
    }
    killpoint::reach("swap.after-delete");
    Ok(())
}

/// Undoes the first half of a swap.
pub(super) fn put_back(site: &Site<'_>, side: &TargetPath, path: &TargetPath) -> Result<()> {
    site.backend.rename(site.call, side, path, &Expect::Absent)?;
    killpoint::reach("swap.after-undo");
    Ok(())
}

fn publish(site: &Site<'_>, step: &PublishStep, source: Arc<dyn Source>, expect: Expect) -> Result<Entry> {
    let request = PublishRequest {
        token: step.token.clone(),
        path: step.path.clone(),
        expect,
        attributes: step.attributes.clone(),
        digests: step.digests.clone(),
        size: step.record.size,
        source,
    };
    let entry = site.backend.publish(site.call, &request)?;
    killpoint::reach("publish.after-publish");
    Ok(entry)
}

/// Removes what was just published and is not what was staged.
fn take_down(site: &Site<'_>, entry: &Entry) -> Result<()> {
    let expect = match &entry.version {
        Some(version) if site.capabilities.conditional_publish => Expect::Version(version.clone()),
        _ => Expect::Any,
    };
    site.backend.delete(site.call, &entry.path, &expect)?;
    killpoint::reach("swap.after-take-down");
    Ok(())
}

/// The name now holds what was staged, as far as a stat shows it.
fn checked(step: &PublishStep, entry: &Entry) -> Result<()> {
    if entry.size == step.record.size {
        return Ok(());
    }
    Err(Error::new(Kind::Verify, "a published file has the wrong size")
        .on(step.path.display())
        .because(format!("{} bytes instead of {}", entry.size, step.record.size))
        .hint("the server lost bytes; the next run looks at it again"))
}
