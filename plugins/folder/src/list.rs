//! Listings: the tree in one fixed order (names sorted, a directory before its content), cut into pages.
//!
//! The page token is the last path given, so a page can be asked for again and nothing is held between pages.

use std::os::fd::OwnedFd;

use offsite_plugin_api::{Call, Error, ErrorKind, Page, Result, StagedInfo, TargetPath};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::client::{Folder, entry};
use super::error::failed;
use super::write;

/// Entries a page: 20,000 take about 5 MiB.
const PAGE: usize = 20_000;
/// A tree deeper than this is a loop or an attack.
const DEEPEST: usize = 200;

pub fn list(
    folder: &Folder,
    call: &Call,
    dir: &TargetPath,
    recursive: bool,
    page: Option<&[u8]>,
) -> Result<Page> {
    let root = folder.root(false)?;
    let fd = root.dir(dir).map_err(|e| failed("list", dir, e))?;
    let resume = page.map(TargetPath::new).transpose()?;
    let resume = match &resume {
        Some(path) if path.starts_with(dir) => {
            path.components().skip(dir.components().count()).map(<[u8]>::to_vec).collect()
        }
        Some(_) => return Err(Error::new(ErrorKind::Other, "the page token is of another listing")),
        None => Vec::new(),
    };
    let mut result = Page::default();
    let mut closed = Vec::new();
    let mut visit = |path: TargetPath, at: &OwnedFd, _kind: FileType| {
        if result.entries.len() % 1000 == 0 {
            call.proceed()?;
        }
        match rustix::fs::statat(at, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => result.entries.push(entry(&root.traits, path, &stat)),
            // Gone between the two calls: it is not there.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("look at", &path, errno)),
        }
        Ok(result.entries.len() < PAGE)
    };
    if !walk(&fd, dir, recursive, &resume, 0, &|_| true, &mut closed, &mut visit)? {
        result.next = result.entries.last().map(|last| last.path.as_bytes().to_vec());
    }
    result.incomplete = closed;
    Ok(result)
}

pub fn staged(folder: &Folder, call: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>> {
    let root = folder.root(false)?;
    let fd = root.dir(dir).map_err(|e| failed("list", dir, e))?;
    let mut found = Vec::new();
    let mut seen = 0_u32;
    let staging = |name: &[u8]| write::owner_of(name).is_some();
    walk(&fd, dir, true, &[], 0, &staging, &mut Vec::new(), &mut |path, at, kind| {
        seen += 1;
        if seen.is_multiple_of(1000) {
            call.proceed()?;
        }
        if kind == FileType::RegularFile && staging(path.name()) {
            match rustix::fs::statat(at, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => found.push(write::info(&path, &stat)),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed("look at", &path, errno)),
            }
        }
        Ok(true)
    })?;
    Ok(found)
}

/// Gives every entry after `resume` (components below this directory) to `visit`; false from it ends the walk and
/// is returned. Files whose name is not `wanted` are passed over before a path is made of it. Directories that this user may
/// not read go to `closed`, with the reason.
#[allow(clippy::too_many_arguments)]
fn walk(
    fd: &OwnedFd,
    dir: &TargetPath,
    recursive: bool,
    resume: &[Vec<u8>],
    depth: usize,
    wanted: &dyn Fn(&[u8]) -> bool,
    closed: &mut Vec<(TargetPath, String)>,
    visit: &mut dyn FnMut(TargetPath, &OwnedFd, FileType) -> Result<bool>,
) -> Result<bool> {
    if depth > DEEPEST {
        return Err(failed("list", dir, Errno::LOOP));
    }
    let mut names = Vec::new();
    for item in Dir::read_from(fd).map_err(|e| failed("list", dir, e))? {
        let item = item.map_err(|e| failed("list", dir, e))?;
        let name = item.file_name().to_bytes();
        let passed = item.file_type() == FileType::RegularFile && !wanted(name);
        if !passed && !matches!(name, b"." | b"..") {
            names.push((name.to_vec(), item.file_type()));
        }
    }
    names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for (name, mut kind) in names {
        let (given, below): (bool, &[Vec<u8>]) = match resume.split_first() {
            Some((at, _)) if name < *at => continue,
            Some((at, rest)) if name == *at => (true, rest),
            _ => (false, &[]),
        };
        // A name with CR or LF cannot be addressed by the contract; it is nobody's image.
        let Ok(path) = dir.join(&name) else { continue };
        if kind == FileType::Unknown {
            kind = match rustix::fs::statat(fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(failed("look at", &path, errno)),
            };
        }
        if !given && !visit(path.clone(), fd, kind)? {
            return Ok(false);
        }
        if recursive && kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(fd, name.as_slice(), flags, Mode::empty()) {
                Ok(child) => {
                    if !walk(&child, &path, true, below, depth + 1, wanted, closed, visit)? {
                        return Ok(false);
                    }
                }
                Err(Errno::NOENT) => {}
                // ext4 makes it at the top of every disk for its own repairs, readable by root alone.
                Err(Errno::ACCESS) if dir.is_root() && name == b"lost+found" => {}
                Err(errno @ (Errno::ACCESS | Errno::PERM)) => {
                    closed.push((path.clone(), failed("list", &path, errno).to_string()));
                }
                Err(errno) => return Err(failed("list", &path, errno)),
            }
        }
    }
    Ok(true)
}
