//! Listings: the tree in one fixed order (names sorted, a directory before its content), cut into pages.
//!
//! The page token is the last path given, so a page can be asked for again and nothing is held between pages. Names come
//! from the server and are not trusted: one that could lead out of its directory ends the listing.

use std::collections::VecDeque;

use offsite_plugin_api::{Call, Error, ErrorKind, Page, Result, StagedInfo, TargetPath};

use super::client::{Sftp, entry, missing, root_hint};
use super::error::{EOF, status};
use super::link::{Link, Watch};
use super::wire::{self, Attrs, Out, Reply};
use super::write;

/// Entries a page: 20,000 take about 5 MiB.
const PAGE: usize = 20_000;
/// A tree deeper than this is a loop or an attack.
const DEEPEST: usize = 200;
/// Names in one directory beyond which a server is not believed.
const MOST_NAMES: usize = 5_000_000;
/// Requests for names in flight.
const AHEAD: usize = 4;

pub fn list(
    sftp: &Sftp,
    call: &Call,
    dir: &TargetPath,
    recursive: bool,
    page: Option<&[u8]>,
) -> Result<Page> {
    let mut link = sftp.lease(call)?;
    let resume = page.map(TargetPath::new).transpose()?;
    let resume: Vec<Vec<u8>> = match &resume {
        Some(path) if path.starts_with(dir) => {
            path.components().skip(dir.components().count()).map(<[u8]>::to_vec).collect()
        }
        Some(_) => return Err(Error::new(ErrorKind::Other, "the page token is of another listing")),
        None => Vec::new(),
    };
    let mut result = Page::default();
    let mut closed = Vec::new();
    let mut visit = |path: TargetPath, attrs: &Attrs| {
        result.entries.push(entry(path, attrs));
        result.entries.len() < PAGE
    };
    if !walk(sftp, &mut link, call, dir, recursive, &resume, 0, &mut closed, &mut visit)? {
        result.next = result.entries.last().map(|last| last.path.as_bytes().to_vec());
    }
    result.incomplete = closed;
    Ok(result)
}

pub fn staged(sftp: &Sftp, call: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>> {
    let mut link = sftp.lease(call)?;
    let mut found = Vec::new();
    walk(sftp, &mut link, call, dir, true, &[], 0, &mut Vec::new(), &mut |path, attrs| {
        if attrs.is_file() && write::owner_of(path.name()).is_some() {
            found.push(write::info(&path, attrs));
        }
        true
    })?;
    Ok(found)
}

/// Gives every entry after `resume` (components below this directory) to `visit`; false from it ends the walk and is
/// returned. Directories that this user may not read go to `closed`, with the reason.
#[allow(clippy::too_many_arguments)]
fn walk(
    sftp: &Sftp,
    link: &mut Link,
    call: &Call,
    dir: &TargetPath,
    recursive: bool,
    resume: &[Vec<u8>],
    depth: usize,
    closed: &mut Vec<(TargetPath, String)>,
    visit: &mut dyn FnMut(TargetPath, &Attrs) -> bool,
) -> Result<bool> {
    if depth > DEEPEST {
        return Err(Error::new(ErrorKind::Corrupt, format!("'{}' lies too deep", dir.display())));
    }
    let names = match names(sftp, link, call, dir) {
        // Gone since its parent was read: it is not there.
        Err(e) if depth > 0 && *e.kind() == ErrorKind::NotFound => return Ok(true),
        // ext4 makes it at the top of every disk for its own repairs, readable by root alone.
        Err(e)
            if *e.kind() == ErrorKind::Denied
                && dir.name() == b"lost+found"
                && dir.parent().is_some_and(|p| p.is_root()) =>
        {
            return Ok(true);
        }
        Err(e) if depth > 0 && *e.kind() == ErrorKind::Denied => {
            closed.push((dir.clone(), e.to_string()));
            return Ok(true);
        }
        other => other?,
    };
    for (name, attrs) in names {
        let (given, below): (bool, &[Vec<u8>]) = match resume.split_first() {
            Some((at, _)) if name < *at => continue,
            Some((at, rest)) if name == *at => (true, rest),
            _ => (false, &[]),
        };
        // A name with CR or LF cannot be addressed by the contract; it is nobody's image.
        let Ok(path) = dir.join(&name) else { continue };
        if !given && !visit(path.clone(), &attrs) {
            return Ok(false);
        }
        if recursive
            && attrs.is_dir()
            && !walk(sftp, link, call, &path, true, below, depth + 1, closed, visit)?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

pub fn open_dir(sftp: &Sftp, link: &mut Link, watch: &dyn Watch, dir: &TargetPath) -> Result<Vec<u8>> {
    let id = link.request(watch, wire::OPENDIR, Out::default().bytes(&sftp.at(dir)))?;
    match link.handle(watch, id, "list", dir) {
        Ok(handle) => Ok(handle),
        // Some servers say `failure` of a file.
        Err(e) => Err(root_hint(e, dir)),
    }
}

pub fn close_dir(link: &mut Link, watch: &dyn Watch, handle: &[u8]) -> Result<()> {
    let id = link.request(watch, wire::CLOSE, Out::default().bytes(handle))?;
    link.abandon(id);
    Ok(())
}

/// The names of one directory with their attributes, sorted.
fn names(sftp: &Sftp, link: &mut Link, call: &Call, dir: &TargetPath) -> Result<Vec<(Vec<u8>, Attrs)>> {
    let handle = open_dir(sftp, link, call, dir)?;
    let mut all: Vec<(Vec<u8>, Attrs)> = Vec::new();
    let mut asked = VecDeque::new();
    let mut ended = false;
    let mut failure = None;
    loop {
        while !ended && asked.len() < AHEAD {
            asked.push_back(link.request(call, wire::READDIR, Out::default().bytes(&handle))?);
        }
        let Some(id) = asked.pop_front() else { break };
        match link.answer(call, id)? {
            Reply::Names(_) if failure.is_some() => {}
            Reply::Names(some) => {
                call.proceed()?;
                all.extend(some.into_iter().filter(|(name, _)| !matches!(&name[..], b"." | b"..")));
                if all.len() > MOST_NAMES {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        format!("'{}' lists more than {MOST_NAMES} names", dir.display()),
                    ));
                }
            }
            Reply::Status(EOF, _) => {
                // What was asked for beyond the end says the same.
                asked.drain(..).for_each(|id| link.abandon(id));
                break;
            }
            Reply::Status(code, words) => {
                ended = true;
                failure.get_or_insert_with(|| status("list", dir, code, &words));
            }
            _ => return Err(link.confused()),
        }
    }
    close_dir(link, call, &handle)?;
    if let Some(error) = failure {
        return Err(error);
    }
    for (name, attrs) in &mut all {
        if name.is_empty() || name.iter().any(|b| matches!(b, b'/' | 0)) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "the server lists the name '{}' in '{}', which is none",
                    name.escape_ascii(),
                    dir.display()
                ),
            ));
        }
        if attrs.mode.is_none()
            && let Ok(path) = dir.join(&*name)
            && let Some(looked) = missing(sftp.lstat(link, call, &path))?
        {
            *attrs = looked;
        }
    }
    all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    all.dedup_by(|a, b| a.0 == b.0);
    Ok(all)
}
