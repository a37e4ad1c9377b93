//! Deleting, renaming, copying, attributes: each durable (the directory synced) when it returns.

use std::os::fd::{AsFd, AsRawFd};

use offsite_plugin_api::{Attributes, Call, Entry, Error, ErrorKind, Expect, Result, TargetPath};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::client::{Folder, Root, changed, entry, exists, set_mtime, version};
use super::error::{failed, shown};

pub fn delete(folder: &Folder, path: &TargetPath, expect: &Expect) -> Result<()> {
    let root = folder.root(false)?;
    let parent = root.parent(path).map_err(|e| failed("delete", path, e))?;
    unlink(&root, &parent, path, expect)?;
    sync(&parent, path)
}

/// One sync for each directory instead of one for each file.
pub fn delete_batch(folder: &Folder, call: &Call, items: &[(TargetPath, Expect)]) -> Result<Vec<Result<()>>> {
    let root = folder.root(false)?;
    let mut results: Vec<Result<()>> = Vec::with_capacity(items.len());
    let mut by_parent = std::collections::BTreeMap::<_, Vec<usize>>::new();
    for (index, (path, _)) in items.iter().enumerate() {
        by_parent.entry(path.parent().unwrap_or_default()).or_default().push(index);
        results.push(Ok(()));
    }
    for (parent, indices) in by_parent {
        call.proceed()?;
        let done = root.dir(&parent).map_err(|e| failed("delete from", &parent, e)).and_then(|fd| {
            for &index in &indices {
                let (path, expect) = &items[index];
                results[index] = unlink(&root, &fd, path, expect);
            }
            sync(&fd, &parent)
        });
        if let Err(error) = done {
            for index in indices {
                results[index] = Err(error.clone());
            }
        }
    }
    Ok(results)
}

fn unlink(root: &Root, parent: impl AsFd, path: &TargetPath, expect: &Expect) -> Result<()> {
    if path.is_root() {
        return Err(Error::new(ErrorKind::Denied, "the target's own folder is never deleted"));
    }
    let parent = parent.as_fd();
    let stat = rustix::fs::statat(parent, path.name(), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| failed("delete", path, e))?;
    match expect {
        Expect::Absent => return Err(exists(path)),
        Expect::Version(wanted) if *wanted != version(&root.traits, &stat) => {
            return Err(changed(path, false));
        }
        _ => {}
    }
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    rustix::fs::unlinkat(parent, path.name(), flags).map_err(|e| failed("delete", path, e))
}

pub fn sync(directory: impl AsFd, path: &TargetPath) -> Result<()> {
    match rustix::fs::fsync(directory) {
        // Some network file systems cannot sync a directory; the server orders such changes itself.
        Ok(()) | Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(failed("make durable", path, errno)),
    }
}

pub fn rename(folder: &Folder, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
    let root = folder.root(false)?;
    let source = root.parent(from).map_err(|e| failed("rename", from, e))?;
    let target = root.make_dirs(&to.parent().unwrap_or_default())?;
    move_to(&root, &source, from, &target, to, expect)?;
    sync(&target, to)?;
    if from.parent() != to.parent() {
        sync(&source, from)?;
    }
    let stat = root.stat(to).map_err(|e| failed("look at", to, e))?;
    Ok(entry(&root.traits, to.clone(), &stat))
}

/// The rename itself, one act with the condition where the file system can do that.
pub fn move_to(
    root: &Root,
    source: impl AsFd,
    from: &TargetPath,
    target: impl AsFd,
    to: &TargetPath,
    expect: &Expect,
) -> Result<()> {
    let (source, target) = (source.as_fd(), target.as_fd());
    let with = |flags| rustix::fs::renameat_with(source, from.name(), target, to.name(), flags);
    let plain = || {
        rustix::fs::renameat(source, from.name(), target, to.name()).map_err(|e| failed("rename", from, e))
    };
    match expect {
        Expect::Any => plain(),
        Expect::Absent => match with(RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Err(exists(to)),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                // A hard link refuses an existing name too, in one act.
                match rustix::fs::linkat(source, from.name(), target, to.name(), AtFlags::empty()) {
                    Ok(()) => {
                        sync(target, to)?;
                        rustix::fs::unlinkat(source, from.name(), AtFlags::empty())
                            .map_err(|e| failed("rename", from, e))
                    }
                    Err(Errno::EXIST) => Err(exists(to)),
                    Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                        root.expect(to, expect)?;
                        plain()
                    }
                    Err(errno) => Err(failed("rename", from, errno)),
                }
            }
            other => other.map_err(|e| failed("rename", from, e)),
        },
        Expect::Version(wanted) => {
            root.expect(to, expect)?;
            // After an exchange that was cut off only the inode tells old from new; where it does not last, look and
            // rename.
            if !root.traits.stable_inodes {
                return plain();
            }
            match with(RenameFlags::EXCHANGE) {
                Ok(()) => {
                    // What was displaced now has the old name: the version decides whether it may go.
                    let stat = rustix::fs::statat(source, from.name(), AtFlags::SYMLINK_NOFOLLOW)
                        .map_err(|e| failed("look at", from, e))?;
                    if version(&root.traits, &stat) != *wanted {
                        with(RenameFlags::EXCHANGE).map_err(|e| failed("put back", to, e))?;
                        return Err(changed(to, false));
                    }
                    // Nothing is removed before its replacement is durable under its name.
                    sync(target, to)?;
                    rustix::fs::unlinkat(source, from.name(), AtFlags::empty())
                        .map_err(|e| failed("remove the replaced", to, e))
                }
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => plain(),
                Err(errno) => Err(failed("replace", to, errno)),
            }
        }
    }
}

/// Copies within the file system (sharing blocks where it can) into a nameless file that is then linked: no reader
/// sees a part of it. An existing `to` is never replaced by a copy.
pub fn copy(
    folder: &Folder,
    call: &Call,
    from: &TargetPath,
    to: &TargetPath,
    expect: &Expect,
) -> Result<Entry> {
    let root = folder.root(false)?;
    let source = root.open(from, OFlags::RDONLY).map_err(|e| failed("copy", from, e))?;
    let stat = rustix::fs::fstat(&source).map_err(|e| failed("look at", from, e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::new(ErrorKind::Unsupported, format!("{} is not a file", shown(from))));
    }
    if let Expect::Version(_) = expect {
        return Err(Error::unsupported("replacing a file by a copy"));
    }
    let parent = root.make_dirs(&to.parent().unwrap_or_default())?;
    let target = rustix::fs::openat(
        &parent,
        c".",
        OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o666),
    )
    .map_err(|e| failed("copy to", to, e))?;
    let mut left = stat.st_size as u64;
    while left > 0 {
        call.proceed()?;
        let piece = left.min(64 << 20) as usize;
        match rustix::fs::copy_file_range(&source, None, &target, None, piece) {
            Ok(0) => return Err(Error::new(ErrorKind::Corrupt, format!("{} became shorter", shown(from)))),
            Ok(copied) => left = left.saturating_sub(copied as u64),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("copy", from, errno)),
        }
        call.alive("copying");
    }
    rustix::fs::fsync(&target).map_err(|e| failed("make durable", to, e))?;
    let nameless = format!("/proc/self/fd/{}", target.as_raw_fd());
    match rustix::fs::linkat(rustix::fs::CWD, nameless, &parent, to.name(), AtFlags::SYMLINK_FOLLOW) {
        Err(Errno::EXIST) => return Err(exists(to)),
        other => other.map_err(|e| failed("copy to", to, e))?,
    }
    sync(&parent, to)?;
    let stat = root.stat(to).map_err(|e| failed("look at", to, e))?;
    Ok(entry(&root.traits, to.clone(), &stat))
}

pub fn set_attributes(folder: &Folder, path: &TargetPath, attributes: &Attributes) -> Result<Entry> {
    if attributes.retention.is_some() {
        return Err(Error::unsupported("retention: a folder cannot lock its files"));
    }
    let root = folder.root(false)?;
    let fd = root.open(path, OFlags::RDONLY).map_err(|e| failed("open", path, e))?;
    if let Some(mtime) = attributes.mtime {
        set_mtime(&fd, mtime).map_err(|e| failed("set the time of", path, e))?;
        rustix::fs::fsync(&fd).map_err(|e| failed("make durable", path, e))?;
    }
    let stat = rustix::fs::fstat(&fd).map_err(|e| failed("look at", path, e))?;
    Ok(entry(&root.traits, path.clone(), &stat))
}
