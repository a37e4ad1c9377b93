//! Listings: one PROPFIND of depth 1 for each directory, several directories at a time. Depth infinity is never asked:
//! servers refuse it, or fall over.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use offsite_plugin_api::{Call, Entry, EntryKind, Error, ErrorKind, Page, Result, StagedInfo, TargetPath};

use super::client::WebDav;
use super::error::{refused, shown};
use super::propfind::{self, Found};
use super::{chunked, write};

/// Entries after which a recursive listing begins another page.
const PAGE: usize = 10_000;
/// Directories asked for at once.
const AT_ONCE: usize = 6;
const DEEPEST: usize = 100;

/// What is directly in a directory.
#[derive(Default)]
pub struct Listed {
    pub found: Vec<(TargetPath, Found)>,
    /// Why that is not all, where it is not.
    pub left_out: Option<Error>,
}

impl Listed {
    fn leave_out(&mut self, why: Error) {
        self.left_out.get_or_insert(why);
    }
}

/// What is directly in `dir`. Errors: `NotFound` when it is no directory.
pub fn directory(dav: &WebDav, call: &Call, dir: &TargetPath) -> Result<Listed> {
    let what = shown(dir);
    let url = dav.files.url(dir, true);
    let Some(answer) = dav.propfind(call, url, "1", propfind::ENTRY, &what)? else {
        return Err(WebDav::not_found(dir));
    };
    let asked = answer.url().clone();
    let mut listed = Listed::default();
    let mut is_directory = false;
    dav.each(call, answer, &what, &mut |found| {
        let path = match dav.files.locate(&asked, &found.href) {
            Ok(path) => path,
            Err(error) => {
                listed.leave_out(error);
                return Ok(true);
            }
        };
        if path == *dir {
            is_directory |= found.collection;
        } else if path.parent().as_ref() != Some(dir) {
            listed.leave_out(Error::new(
                ErrorKind::Corrupt,
                format!("asked for {what}, the server lists '{}'", path.display()),
            ));
        } else {
            match found.status {
                // Gone while it was listed.
                Some(404 | 410) => {}
                Some(status) if !(200..300).contains(&status) => {
                    let status =
                        reqwest::StatusCode::from_u16(status).unwrap_or(reqwest::StatusCode::BAD_GATEWAY);
                    listed.leave_out(refused("look at", &shown(&path), status, &Default::default(), ""));
                }
                None if !found.told => {
                    let why = format!("the server lists {} and tells nothing of it", shown(&path));
                    listed.leave_out(Error::new(ErrorKind::Corrupt, why));
                }
                _ => listed.found.push((path, found)),
            }
        }
        Ok(true)
    })?;
    match listed.left_out.take_if(|_| !is_directory) {
        // Nothing in the answer is of this directory: the way in which it is wrong helps more than that it is missing.
        Some(error) => Err(error),
        None if is_directory => Ok(listed),
        None => Err(WebDav::not_found(dir)),
    }
}

pub fn list(
    dav: &WebDav,
    call: &Call,
    dir: &TargetPath,
    recursive: bool,
    page: Option<&[u8]>,
) -> Result<Page> {
    let mut pending: Vec<TargetPath> = match page {
        None => vec![dir.clone()],
        Some(token) => {
            let pending: Vec<TargetPath> = serde_json::from_slice(token).unwrap_or_default();
            if pending.is_empty() || !pending.iter().all(|p| p.starts_with(dir)) {
                return Err(Error::new(ErrorKind::Other, "the page token is of another listing"));
            }
            pending
        }
    };
    let mut result = Page::default();
    while let Some((some, rest)) = take(&mut pending) {
        for (of, listed) in some.iter().zip(directories(dav, call, &some)) {
            let listed = match listed {
                // Removed since its parent was listed.
                Err(e) if *e.kind() == ErrorKind::NotFound && of != dir => continue,
                // There, and not for this user.
                Err(e) if *e.kind() == ErrorKind::Denied && of != dir => {
                    Listed { left_out: Some(e), ..Listed::default() }
                }
                other => other?,
            };
            result.incomplete.extend(listed.left_out.map(|why| (of.clone(), why.to_string())));
            for (path, found) in listed.found.into_iter().filter(|(path, _)| !is_servers_own(path)) {
                let entry = match dav.entry(call, path, &found) {
                    Err(e) if *e.kind() == ErrorKind::NotFound => continue,
                    other => other?,
                };
                if recursive && entry.kind == EntryKind::Dir {
                    if entry.path.components().count() > DEEPEST {
                        return Err(Error::new(
                            ErrorKind::Denied,
                            format!("{} is nested too deeply", shown(&entry.path)),
                        ));
                    }
                    pending.push(entry.path.clone());
                }
                result.entries.push(entry);
            }
        }
        if rest == 0 && pending.is_empty() {
            break;
        }
        if result.entries.len() >= PAGE {
            result.next = Some(serde_json::to_vec(&pending).expect("paths serialise"));
            break;
        }
    }
    Ok(result)
}

/// An upload that mod_dav_fs is receiving, perhaps one of ours: it shows them like files.
fn is_servers_own(path: &TargetPath) -> bool {
    path.name().starts_with(b".davfs.tmp")
}

/// The next directories, and how many are left.
fn take(pending: &mut Vec<TargetPath>) -> Option<(Vec<TargetPath>, usize)> {
    if pending.is_empty() {
        return None;
    }
    let some = pending.split_off(pending.len().saturating_sub(AT_ONCE));
    Some((some, pending.len()))
}

fn directories(dav: &WebDav, call: &Call, dirs: &[TargetPath]) -> Vec<Result<Listed>> {
    if let [one] = dirs {
        return vec![directory(dav, call, one)];
    }
    let results: Vec<Mutex<Option<Result<Listed>>>> = dirs.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for (dir, result) in dirs.iter().zip(&results) {
            scope.spawn(move || {
                let listed = directory(dav, call, dir);
                *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(listed);
            });
        }
    });
    let missing = || Err(Error::new(ErrorKind::Panicked, "a thread of the listing ended early"));
    results
        .into_iter()
        .map(|r| r.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(missing))
        .collect()
}

/// Everything staged below `dir`: files under staging names, and chunks that wait to be put together.
pub fn staged(dav: &WebDav, call: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>> {
    let mut staged = Vec::new();
    let mut pending = vec![dir.clone()];
    while let Some((some, _)) = take(&mut pending) {
        for (of, listed) in some.iter().zip(directories(dav, call, &some)) {
            let listed = match listed {
                Err(e) if *e.kind() == ErrorKind::NotFound && of != dir => continue,
                other => other?,
            };
            for (path, found) in listed.found {
                if found.collection {
                    pending.push(path);
                } else if write::owner_of(path.name()).is_some() {
                    let entry: Entry = dav.entry(call, path, &found)?;
                    staged.push(write::info(&entry, &found));
                }
            }
        }
    }
    staged.extend(chunked::list(dav, call)?);
    Ok(staged)
}

/// Seconds since then, by this machine's clock: servers' clocks are near enough for sweeping.
pub fn age(modified: Option<i64>) -> Option<u64> {
    let now = SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    Some(now.saturating_sub(u64::try_from(modified?).ok()?))
}
