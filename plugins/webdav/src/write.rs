//! Tokens, publishing, discarding.
//!
//! Staged bytes lie in the image's own directory under the host's staging name; publishing is one MOVE that overwrites nothing.
//! Whether a MOVE happened is never taken from its reply alone: where that is lost or says that the staging is gone, the
//! names are looked at.

use offsite_plugin_api::{
    Call, Entry, EntryKind, Error, ErrorKind, Expect, PublishRequest, Result, StagedInfo, TargetPath, Token,
};
use serde::{Deserialize, Serialize};

use super::client::WebDav;
use super::error::{changed, shown, stale};
use super::propfind::Found;
use super::{change, chunked, list};

/// What a token holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Staging {
    /// A whole file under its staging name.
    File(StagedFile),
    /// Chunks that are not put together yet: the name of their folder.
    Upload { upload: String },
    /// A file under its staging name that has not all its ranges yet.
    Partial { partial: TargetPath },
}

/// Where the bytes are, and what proves that they are the same: a MOVE keeps etag or time, most servers keep both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedFile {
    pub path: TargetPath,
    pub size: u64,
    pub etag: Option<String>,
    pub modified: Option<i64>,
}

impl StagedFile {
    pub fn of(entry: &Entry, found: &Found) -> Self {
        Self {
            path: entry.path.clone(),
            size: entry.size,
            etag: found.etag.clone(),
            modified: found.modified,
        }
    }

    /// Whether `found`, `size` bytes long, is this file, under whatever name.
    fn is(&self, size: u64, found: &Found) -> bool {
        let same_time = self.modified.is_some() && self.modified == found.modified;
        let same_tag = self.etag.is_some() && self.etag == found.etag;
        let nothing_known = self.etag.is_none() && self.modified.is_none();
        self.size == size && (same_tag || same_time || nothing_known)
    }
}

impl Staging {
    /// Errors: `StaleToken` for what is no token of ours.
    pub fn parse(token: &Token) -> Result<Self> {
        let bad = |why: String| {
            Error::new(ErrorKind::StaleToken, "the staging token is not one of ours").with_source(why)
        };
        if token.0.len() > Token::MAX {
            return Err(bad("it is too long".to_owned()));
        }
        let parsed: Self = serde_json::from_slice(&token.0).map_err(|e| bad(e.to_string()))?;
        let ours = match &parsed {
            // Only what is named as staging is ever published or discarded, whatever a token claims.
            Self::File(file) => owner_of(file.path.name()).is_some(),
            Self::Upload { upload } => chunked::parse(upload).is_some(),
            Self::Partial { partial } => owner_of(partial.name()).is_some(),
        };
        if ours { Ok(parsed) } else { Err(bad("it names no staging".to_owned())) }
    }

    pub fn token(&self) -> Token {
        Token(serde_json::to_vec(self).expect("names and numbers serialise"))
    }
}

/// The owner in a staging name `offsite-<owner>-<hash>.part`.
pub fn owner_of(name: &[u8]) -> Option<String> {
    owner_in(name.strip_suffix(b".part")?)
}

/// The owner in `offsite-<owner>-<hash>`.
pub fn owner_in(stem: &[u8]) -> Option<String> {
    let middle = stem.strip_prefix(b"offsite-")?;
    let dash = middle.iter().rposition(|&b| b == b'-')?;
    let (owner, hash) = (&middle[..dash], &middle[dash + 1..]);
    (!owner.is_empty() && !hash.is_empty()).then(|| String::from_utf8_lossy(owner).into_owned())
}

pub fn info(entry: &Entry, found: &Found) -> StagedInfo {
    StagedInfo {
        token: Staging::File(StagedFile::of(entry, found)).token(),
        path: Some(entry.path.clone()),
        owner: owner_of(entry.path.name()).unwrap_or_default(),
        bytes: entry.size,
        // Where the time is the source's, this is the image's age: nothing is known about the upload's.
        age: list::age(found.modified),
    }
}

/// The staged file of a token: still there, still the same. `None`: nothing has its name.
fn find(dav: &WebDav, call: &Call, file: &StagedFile) -> Result<Option<(Entry, Found)>> {
    let Some(found) = dav.look(call, &file.path)? else { return Ok(None) };
    let entry = dav.entry(call, file.path.clone(), &found)?;
    if entry.kind != EntryKind::File || !file.is(entry.size, &found) {
        return Err(stale(&file.path, "was replaced by another staged file"));
    }
    Ok(Some((entry, found)))
}

pub fn stat_staged(dav: &WebDav, call: &Call, token: &Token) -> Result<StagedInfo> {
    match Staging::parse(token)? {
        Staging::Upload { upload } => chunked::stat(dav, call, &upload),
        Staging::Partial { partial } => match dav.look(call, &partial)?.filter(|found| !found.collection) {
            // With what nobody has sent yet between the ranges.
            Some(found) => {
                let about = info(&dav.entry(call, partial, &found)?, &found);
                Ok(StagedInfo { token: token.clone(), ..about })
            }
            None => Err(stale(&partial, "is not staged any more")),
        },
        Staging::File(file) => match find(dav, call, &file)? {
            Some((entry, found)) => Ok(info(&entry, &found)),
            None => Err(stale(&file.path, "is not staged any more")),
        },
    }
}

pub fn discard(dav: &WebDav, call: &Call, token: &Token) -> Result<()> {
    dav.fresh().remove(token);
    let path = match Staging::parse(token)? {
        Staging::Upload { upload } => return chunked::discard(dav, call, &upload),
        Staging::File(file) => file.path,
        Staging::Partial { partial } => partial,
    };
    change::remove(dav, call, dav.files.url(&path, false), &shown(&path)).map(drop)
}

pub fn publish(dav: &WebDav, call: &Call, request: &PublishRequest) -> Result<Entry> {
    let Staging::File(file) = Staging::parse(&request.token)? else {
        return Err(stale(&request.path, "is not staged in full"));
    };
    if file.size != request.size {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{} holds {} bytes of {}", shown(&file.path), file.size, request.size),
        ));
    }
    if let Expect::Version(wanted) = &request.expect {
        match dav.expect_version(call, &request.path, wanted) {
            Ok(_) => {}
            Err(e) if *e.kind() == ErrorKind::NotFound => return Err(changed(&request.path, true)),
            // A repeat after success meets the new file there.
            Err(e) => return published(dav, call, &file, request)?.ok_or(e),
        }
    }
    // What another process staged may have changed since.
    if !dav.fresh().contains(&request.token) && find(dav, call, &file)?.is_none() {
        let gone = || stale(&file.path, "is not staged any more");
        return published(dav, call, &file, request)?.ok_or_else(gone);
    }
    let moved = change::move_file(dav, call, &file.path, &request.path);
    dav.fresh().remove(&request.token);
    if let Err(error) = moved {
        // A server that is still at work, or a lost reply: the names tell.
        return match published(dav, call, &file, request) {
            Ok(Some(entry)) => Ok(entry),
            Ok(None) if *error.kind() == ErrorKind::NotFound => {
                Err(stale(&file.path, "is not staged any more"))
            }
            Ok(None) => Err(error),
            Err(_) => Err(error),
        };
    }
    let Some(found) = dav.look(call, &request.path)? else {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{} was published and is not there", shown(&request.path)),
        ));
    };
    finish(dav, call, request, &found)
}

/// The entry of what now has the name, with the time it should have.
fn finish(dav: &WebDav, call: &Call, request: &PublishRequest, found: &Found) -> Result<Entry> {
    let entry = dav.entry(call, request.path.clone(), found)?;
    let wanted = request.attributes.mtime.map(|t| t.ns.div_euclid(1_000_000_000));
    if wanted.is_some() && wanted != found.modified && dav.facts(call)?.keeps_mtime() {
        return change::set_attributes(dav, call, &request.path, &request.attributes);
    }
    Ok(entry)
}

/// Whether the publish has happened already: the staging is gone, and what has the name is the file that was staged.
fn published(
    dav: &WebDav,
    call: &Call,
    file: &StagedFile,
    request: &PublishRequest,
) -> Result<Option<Entry>> {
    let Some(found) = dav.look(call, &request.path)?.filter(|f| !f.collection) else { return Ok(None) };
    let entry = dav.entry(call, request.path.clone(), &found)?;
    if !file.is(entry.size, &found) || dav.look(call, &file.path)?.is_some() {
        return Ok(None);
    }
    finish(dav, call, request, &found).map(Some)
}
