//! Staging and publishing.
//!
//! Staged bytes lie in the image's own directory under the host's staging name. A checkpoint is only told to the
//! host after `fdatasync`, so what it names survives a power cut. Publishing is: file synced, one rename, directory
//! synced.

use offsite_plugin_api::{
    Entry, Error, ErrorKind, Expect, PublishRequest, Result, StagedInfo, TargetPath, Token,
};
use rustix::fs::{AtFlags, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::change::{move_to, sync};
use super::client::{Folder, Root, changed, entry, mtime_ns, try_mtime, version};
use super::error::{failed, shown, stale};

/// What a token holds: where the bytes are, and the inode that proves that they are the same file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagingToken {
    pub path: TargetPath,
    pub inode: u64,
}

impl StagingToken {
    pub fn parse(token: &Token) -> Result<Self> {
        let bad = |why: String| {
            Error::new(ErrorKind::StaleToken, "the staging token is not one of ours").with_source(why)
        };
        if token.0.len() > Token::MAX {
            return Err(bad("it is too long".to_owned()));
        }
        let parsed: Self = serde_json::from_slice(&token.0).map_err(|e| bad(e.to_string()))?;
        if parsed.path.is_root() {
            return Err(bad("it names no file".to_owned()));
        }
        Ok(parsed)
    }

    /// Whether `stat` is the file this token was made for. Where inode numbers do not last over a remount the name
    /// has to do: it is the host's own, made from owner and path.
    pub fn is(&self, root: &Root, stat: &Stat) -> bool {
        !root.traits.stable_inodes || stat.st_ino == self.inode
    }

    pub fn token(&self) -> Token {
        Token(serde_json::to_vec(self).expect("a path and a number serialise"))
    }
}

/// The owner in a staging name `offsite-<owner>-<hash>.part`.
pub fn owner_of(name: &[u8]) -> Option<String> {
    let middle = name.strip_prefix(b"offsite-")?.strip_suffix(b".part")?;
    let dash = middle.iter().rposition(|&b| b == b'-')?;
    let (owner, hash) = (&middle[..dash], &middle[dash + 1..]);
    (!owner.is_empty() && !hash.is_empty()).then(|| String::from_utf8_lossy(owner).into_owned())
}

pub fn info(path: &TargetPath, stat: &Stat) -> StagedInfo {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
    StagedInfo {
        token: StagingToken { path: path.clone(), inode: stat.st_ino }.token(),
        path: Some(path.clone()),
        owner: owner_of(path.name()).unwrap_or_default(),
        bytes: stat.st_size as u64,
        // Not the modification time: that is the source's once all bytes are there.
        age: Some(now.saturating_sub(stat.st_ctime).max(0) as u64),
    }
}

/// The staged file of a token: still there, still the same.
fn find(root: &Root, token: &StagingToken) -> Result<Option<Stat>> {
    match root.stat(&token.path) {
        Ok(stat) if token.is(root, &stat) => Ok(Some(stat)),
        Ok(_) => Err(stale(&token.path, "was replaced by another staged file")),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed("look at", &token.path, errno)),
    }
}

pub fn stat_staged(folder: &Folder, token: &Token) -> Result<StagedInfo> {
    let token = StagingToken::parse(token)?;
    match find(&*folder.root(false)?, &token)? {
        Some(stat) => Ok(info(&token.path, &stat)),
        None => Err(stale(&token.path, "is not staged any more")),
    }
}

pub fn discard(folder: &Folder, token: &Token) -> Result<()> {
    let token = StagingToken::parse(token)?;
    let root = folder.root(false)?;
    // Only what is named as staging is ever discarded, whatever a token claims.
    if owner_of(token.path.name()).is_none() {
        return Err(stale(&token.path, "is not a staging name"));
    }
    let parent = match root.parent(&token.path) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(|e| failed("discard", &token.path, e))?,
    };
    match rustix::fs::unlinkat(&parent, token.path.name(), AtFlags::empty()) {
        Ok(()) => sync(&parent, &token.path),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("discard", &token.path, errno)),
    }
}

pub fn publish(folder: &Folder, request: &PublishRequest) -> Result<Entry> {
    let token = StagingToken::parse(&request.token)?;
    let root = folder.root(false)?;
    let fd = match root.open(&token.path, OFlags::RDWR) {
        Err(Errno::NOENT) => return published(&root, &token, request, None),
        other => other.map_err(|e| failed("open", &token.path, e))?,
    };
    let stat = rustix::fs::fstat(&fd).map_err(|e| failed("look at", &token.path, e))?;
    if !token.is(&root, &stat) {
        // A replacing publish was cut off after the exchange: the old file has the staging name.
        return published(&root, &token, request, Some(stat));
    }
    if stat.st_size as u64 != request.size {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{} holds {} bytes of {}", shown(&token.path), stat.st_size, request.size),
        ));
    }
    if let Some(mtime) = request.attributes.mtime.filter(|wanted| wanted.ns != mtime_ns(&stat)) {
        try_mtime(&fd, mtime).map_err(|e| failed("set the time of", &token.path, e))?;
    }
    rustix::fs::fsync(&fd).map_err(|e| failed("make durable", &token.path, e))?;
    let source = root.parent(&token.path).map_err(|e| failed("publish", &token.path, e))?;
    let target = root.make_dirs(&request.path.parent().unwrap_or_default())?;
    if root.stat(&request.path).is_ok_and(|there| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino))
    {
        // A publish by hard link was cut off between its two halves: both names are this file.
        return published(&root, &token, request, Some(stat));
    }
    move_to(&root, &source, &token.path, &target, &request.path, &request.expect)?;
    sync(&target, &request.path)?;
    if token.path.parent() != request.path.parent() {
        sync(&source, &token.path)?;
    }
    let stat = root.stat(&request.path).map_err(|e| failed("look at", &request.path, e))?;
    Ok(entry(&root.traits, request.path.clone(), &stat))
}

/// The name has the staged inode; where inodes do not last, the staged size and the time it was given.
fn is_published(root: &Root, token: &StagingToken, request: &PublishRequest, stat: &Stat) -> bool {
    let same = if root.traits.stable_inodes || stat.st_ino == token.inode {
        stat.st_ino == token.inode
    } else {
        let there = entry(&root.traits, request.path.clone(), stat).mtime.map_or(0, |t| t.ns);
        let given = request.attributes.mtime;
        given.is_some_and(|given| {
            there.abs_diff(given.ns) < root.traits.mtime_precision_ns.max(given.precision_ns)
        })
    };
    same && stat.st_size as u64 == request.size
}

/// A repeat after success: the name already has the staged inode. `displaced`: what has the staging name now.
fn published(
    root: &Root,
    token: &StagingToken,
    request: &PublishRequest,
    displaced: Option<Stat>,
) -> Result<Entry> {
    match root.stat(&request.path) {
        Ok(stat) if is_published(root, token, request, &stat) => {
            if let (Some(displaced), Expect::Version(wanted)) = (&displaced, &request.expect)
                && displaced.st_ino != stat.st_ino
                && version(&root.traits, displaced) != *wanted
            {
                // Somebody else's, exchanged before it was looked at: it gets its name back.
                let source = root.parent(&token.path).map_err(|e| failed("put back", &request.path, e))?;
                let target = root.parent(&request.path).map_err(|e| failed("put back", &request.path, e))?;
                let back = RenameFlags::EXCHANGE;
                let (from, to) = (token.path.name(), request.path.name());
                rustix::fs::renameat_with(&source, from, &target, to, back)
                    .map_err(|e| failed("put back", &request.path, e))?;
                sync(&target, &request.path)?;
                return Err(changed(&request.path, false));
            }
            let parent = root.parent(&request.path).map_err(|e| failed("publish", &request.path, e))?;
            sync(&parent, &request.path)?;
            if displaced.is_some() {
                rustix::fs::unlinkat(
                    root.parent(&token.path).map_err(|e| failed("publish", &token.path, e))?,
                    token.path.name(),
                    AtFlags::empty(),
                )
                .map_err(|e| failed("remove the replaced", &request.path, e))?;
            }
            Ok(entry(&root.traits, request.path.clone(), &stat))
        }
        Ok(_) | Err(Errno::NOENT) => Err(stale(&token.path, "is not staged any more")),
        Err(errno) => Err(failed("look at", &request.path, errno)),
    }
}
