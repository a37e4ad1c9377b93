//! Listings: directory by directory in one fixed order, cut into pages between two directories.
//!
//! The page token is the last directory that was given whole, so a page can be asked for again and nothing is held between
//! pages. Names come from the server: one that is no name of a single component makes its directory's listing incomplete.

use std::sync::Arc;

use offsite_plugin_api::{Call, Entry, EntryKind, Error, ErrorKind, Page, Result, StagedInfo, TargetPath};
use smb2::msg::create::CreateDisposition;
use smb2::msg::directory_info::DirectoryInfoEntry;
use smb2::pack::FileTime;

use super::client::{LONG, Smb};
use super::error::{NOT_A_DIRECTORY, failed, of_status, shown};
use super::names::entry_listed;
use super::share::{Access, Live, Options};
use super::write;

/// A page ends after the directory in which it reached so many entries.
const PAGE: usize = 20_000;
/// A directory with more is refused: a hostile server would list for ever.
const LARGEST: usize = 5_000_000;
/// A tree deeper than this is a loop or an attack.
const DEEPEST: usize = 200;

/// Gets what is in a directory, and why that is not all where it is not.
type Visit<'a> = dyn FnMut(&TargetPath, Vec<Entry>, Option<String>) -> bool + 'a;

pub fn list(smb: &Smb, call: &Call, dir: &TargetPath, recursive: bool, page: Option<&[u8]>) -> Result<Page> {
    let mut result = Page::default();
    let after = page.map(TargetPath::new).transpose()?;
    if after.as_ref().is_some_and(|after| !after.starts_with(dir)) {
        return Err(Error::new(ErrorKind::Other, "the page token is of another listing"));
    }
    walk(smb, call, dir, recursive, after.as_ref(), &mut |at, entries, left_out| {
        result.entries.extend(entries);
        result.incomplete.extend(left_out.map(|why| (at.clone(), why)));
        let full = result.entries.len() >= PAGE;
        if full {
            result.next = Some(at.as_bytes().to_vec());
        }
        !full
    })?;
    Ok(result)
}

pub fn staged(smb: &Smb, call: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>> {
    let mut found = Vec::new();
    let walked = walk(smb, call, dir, true, None, &mut |_, entries, _| {
        for entry in entries {
            if entry.kind == EntryKind::File && write::owner_of(entry.path.name()).is_some() {
                found.push(entry);
            }
        }
        true
    });
    match walked {
        // Nothing is staged where there is nothing.
        Err(error) if *error.kind() == ErrorKind::NotFound && dir.is_root() => return Ok(Vec::new()),
        other => other?,
    }
    let mut infos = Vec::with_capacity(found.len());
    for entry in found {
        // The version begins with the file's number and ends with the time of its last change.
        let fields: Vec<&str> = entry.version.as_deref().unwrap_or_default().split('-').collect();
        let number = |at: usize| fields.get(at).and_then(|f| u64::from_str_radix(f, 16).ok()).unwrap_or(0);
        infos.push(write::info(&entry.path, number(0), entry.size, FileTime(number(3))));
    }
    Ok(infos)
}

/// Visits `dir` and what is below it, parents first, in the order of names; those up to `after` are passed over. The
/// visitor ends the walk by giving false.
fn walk(
    smb: &Smb,
    call: &Call,
    dir: &TargetPath,
    recursive: bool,
    after: Option<&TargetPath>,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let mut todo = vec![dir.clone()];
    while let Some(at) = todo.pop() {
        if at.components().count() > dir.components().count() + DEEPEST {
            return Err(Error::new(ErrorKind::Corrupt, format!("{} is nested too deep", shown(&at))));
        }
        // Of what was given already only the way to the rest is needed.
        let given = after.is_some_and(|after| !later(&at, after));
        if given && after.is_some_and(|after| !after.starts_with(&at)) {
            continue;
        }
        let (entries, left_out) = match directory(smb, call, &at) {
            // Gone since its parent was listed: it is not there.
            Err(error) if *error.kind() == ErrorKind::NotFound && at != *dir => continue,
            // There, and not for this user ("System Volume Information").
            Err(error) if *error.kind() == ErrorKind::Denied && at != *dir => {
                (Vec::new(), Some(error.to_string()))
            }
            other => other?,
        };
        if recursive {
            let mut below: Vec<TargetPath> =
                entries.iter().filter(|e| e.kind == EntryKind::Dir).map(|e| e.path.clone()).collect();
            below.sort_unstable_by(|a, b| order(b, a));
            todo.extend(below);
        }
        if !given && !visit(&at, entries, left_out) {
            return Ok(());
        }
    }
    Ok(())
}

/// By components: a directory comes right before what is below it.
fn order(a: &TargetPath, b: &TargetPath) -> std::cmp::Ordering {
    a.components().cmp(b.components())
}

fn later(a: &TargetPath, b: &TargetPath) -> bool {
    order(a, b).is_gt()
}

/// What is in it, and why that is not all where it is not.
fn directory(smb: &Smb, call: &Call, dir: &TargetPath) -> Result<(Vec<Entry>, Option<String>)> {
    let name = smb.wire(dir)?;
    let listed = smb.on(call, "list", dir, LONG, |live| async move { read_directory(live, &name).await })?;
    let Some(listed) = listed else {
        return Err(failed("list", dir, &of_status(NOT_A_DIRECTORY)));
    };
    let mut entries = Vec::with_capacity(listed.len());
    let mut left_out = None;
    for item in listed {
        let path = match item.file_name.as_str() {
            "." | ".." => continue,
            name if !name.is_empty() && !name.contains(['/', '\\', '\0']) => dir.join(name).ok(),
            _ => None,
        };
        match path {
            Some(path) => entries.push(entry_listed(path, &item)),
            None => {
                let name = item.file_name.escape_debug();
                left_out = Some(format!("the server lists a name that is none: '{name}'"));
            }
        }
    }
    Ok((entries, left_out))
}

/// `None`: it is no directory.
async fn read_directory(live: Arc<Live>, name: &str) -> smb2::Result<Option<Vec<DirectoryInfoEntry>>> {
    let dir = live.open(name, CreateDisposition::FileOpen, Access::READ, Options::ANY).await?;
    if !dir.is_directory() {
        live.close(dir).await;
        return Ok(None);
    }
    let mut found = Vec::new();
    loop {
        let some = live.list(dir).await?;
        if some.is_empty() {
            live.close(dir).await;
            return Ok(Some(found));
        }
        found.extend(some);
        if found.len() > LARGEST {
            live.close(dir).await;
            return Err(smb2::Error::invalid_data("the directory holds too many entries"));
        }
    }
}
