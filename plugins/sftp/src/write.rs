//! Staged files: their tokens, what is said of them, and publishing.
//!
//! Staged bytes lie in the image's own directory under the host's staging name. Their last bytes are written when all
//! others are there (`stage.rs`), so a staged file of the right size is whole. Publishing is one rename, made durable
//! by a sync of the directory where the server can do that.

use offsite_plugin_api::{
    Call, Entry, Error, ErrorKind, Expect, PublishRequest, Result, StagedInfo, TargetPath, Token,
};
use serde::{Deserialize, Serialize};

use super::client::{Sftp, entry, expected, got_dir, missing, seconds, version};
use super::error::{changed, exists, shown, stale};
use super::link::{Link, Watch};
use super::wire::{self, Attrs, Out, SetAttrs};

/// What a token holds: where the bytes are. The protocol shows nothing else that would tell one file from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagingToken {
    pub path: TargetPath,
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
        // Only what is named as staging is ever touched, whatever a token claims.
        if owner_of(parsed.path.name()).is_none() {
            return Err(bad("it names no staged file".to_owned()));
        }
        Ok(parsed)
    }

    pub fn token(&self) -> Token {
        Token(serde_json::to_vec(self).expect("a path serialises"))
    }
}

/// The owner in a staging name `offsite-<owner>-<hash>.part`.
pub fn owner_of(name: &[u8]) -> Option<String> {
    let middle = name.strip_prefix(b"offsite-")?.strip_suffix(b".part")?;
    let dash = middle.iter().rposition(|&b| b == b'-')?;
    let (owner, hash) = (&middle[..dash], &middle[dash + 1..]);
    (!owner.is_empty() && !hash.is_empty()).then(|| String::from_utf8_lossy(owner).into_owned())
}

pub fn info(path: &TargetPath, attrs: &Attrs) -> StagedInfo {
    StagedInfo {
        token: StagingToken { path: path.clone() }.token(),
        path: Some(path.clone()),
        owner: owner_of(path.name()).unwrap_or_default(),
        bytes: attrs.size.unwrap_or(0),
        // The modification time is the source's once all bytes are there, and the protocol has no other.
        age: None,
    }
}

pub fn stat_staged(sftp: &Sftp, call: &Call, token: &Token) -> Result<StagedInfo> {
    let token = StagingToken::parse(token)?;
    let mut link = sftp.lease(call)?;
    match sftp.look(&mut link, call, &token.path)? {
        Some(attrs) if attrs.is_file() => Ok(info(&token.path, &attrs)),
        _ => Err(stale(&token.path, "is not staged any more")),
    }
}

pub fn discard(sftp: &Sftp, call: &Call, token: &Token) -> Result<()> {
    let token = StagingToken::parse(token)?;
    let mut link = sftp.lease(call)?;
    let id = link.request(call, wire::REMOVE, Out::default().bytes(&sftp.at(&token.path)))?;
    missing(link.done(call, id, "discard", &token.path)).map(drop)
}

pub fn publish(sftp: &Sftp, call: &Call, request: &PublishRequest) -> Result<Entry> {
    let token = StagingToken::parse(&request.token)?;
    let mut link = sftp.lease(call)?;
    let link = &mut *link;
    let (path, dir) = (&request.path, request.path.parent().unwrap_or_default());
    let at = [sftp.at(&token.path), sftp.at(path)];
    let asked = [
        link.request(call, wire::LSTAT, Out::default().bytes(&at[0]))?,
        link.request(call, wire::LSTAT, Out::default().bytes(&at[1]))?,
    ];
    // Whatever comes of it: an answer that nobody fetches is closed with the loan of the connection.
    let beside = token.path.parent() == path.parent();
    let opened = if beside { sftp.ask_dir(link, call, &dir)? } else { None };
    let staged = missing(link.attrs(call, asked[0], "look at", &token.path))?;
    let there = missing(link.attrs(call, asked[1], "look at", path))?;
    let Some(staged) = staged else { return published(sftp, link, call, request, &token, there) };
    let size = staged.size.unwrap_or(0);
    if !staged.is_file() || size != request.size {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{} holds {size} bytes of {}", shown(&token.path), request.size),
        ));
    }
    if let Some(mtime) = request.attributes.mtime.map(seconds).filter(|m| Some(*m) != staged.mtime) {
        let set = SetAttrs { mtime: Some(mtime), ..SetAttrs::default() };
        let id = link.request(call, wire::SETSTAT, Out::default().bytes(&at[0]).attrs(&set))?;
        link.done(call, id, "set the time of", &token.path)?;
    }
    if !beside {
        sftp.make_dirs(link, call, &dir)?;
    }
    let attrs = move_to(sftp, link, call, [&token.path, path], &request.expect, there.as_ref(), opened)?;
    Ok(entry(path.clone(), &attrs))
}

/// Renames on the condition, makes that durable, and looks at the result.
///
/// `Absent` uses version 3's own rename, which OpenSSH does as a link and an unlink and so never overwrites; another
/// server may, therefore it is looked at first. Replacing is `posix-rename@openssh.com`. `opened`: the target's
/// directory, if it was asked for already.
pub fn move_to(
    sftp: &Sftp,
    link: &mut Link,
    watch: &dyn Watch,
    [from, to]: [&TargetPath; 2],
    expect: &Expect,
    there: Option<&Attrs>,
    opened: Option<u32>,
) -> Result<Attrs> {
    expected(to, expect, there)?;
    if there.is_some_and(Attrs::is_dir) || (there.is_some() && !link.features.posix_rename) {
        return Err(exists(to));
    }
    let dir = to.parent().unwrap_or_default();
    let opened = match opened {
        None => sftp.ask_dir(link, watch, &dir)?,
        asked => asked,
    };
    let handle = match opened {
        Some(id) => got_dir(link.handle(watch, id, "open", &dir))?,
        None => None,
    };
    let names = Out::default().bytes(&sftp.at(from)).bytes(&sftp.at(to));
    let renamed = if link.features.posix_rename && *expect != Expect::Absent {
        link.extended(watch, b"posix-rename@openssh.com", names)?
    } else {
        link.request(watch, wire::RENAME, names)?
    };
    let synced = match &handle {
        Some(handle) => {
            let id = link.extended(watch, b"fsync@openssh.com", Out::default().bytes(handle))?;
            let close = link.request(watch, wire::CLOSE, Out::default().bytes(handle))?;
            Some((id, close))
        }
        None => None,
    };
    let looked = link.request(watch, wire::LSTAT, Out::default().bytes(&sftp.at(to)))?;
    let result = link.done(watch, renamed, "rename", from);
    if let Some((id, close)) = synced {
        got_dir(link.done(watch, id, "make durable", &dir))?;
        link.abandon(close);
    }
    let looked = missing(link.attrs(watch, looked, "look at", to))?;
    match (result, looked) {
        (Ok(()), Some(attrs)) => {
            if from.parent() != to.parent() {
                sftp.sync_dir(link, watch, &from.parent().unwrap_or_default())?;
            }
            Ok(attrs)
        }
        (Ok(()), None) => Err(changed(to, true)),
        (Err(e), _)
            if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Denied | ErrorKind::NameRefused) =>
        {
            Err(e)
        }
        // Somebody else took the name meanwhile: version 3 has no word for that.
        (Err(e), Some(_)) if *expect == Expect::Absent && *e.kind() == ErrorKind::Other => Err(exists(to)),
        (Err(e), _) => {
            let at = sftp.at(&dir);
            Err(link.why(watch, e, &at))
        }
    }
}

/// A repeat after success: nothing is staged, and the name holds a file of the size and time that were staged, which is
/// not what it should replace.
fn published(
    sftp: &Sftp,
    link: &mut Link,
    call: &Call,
    request: &PublishRequest,
    token: &StagingToken,
    there: Option<Attrs>,
) -> Result<Entry> {
    let Some(attrs) = there.filter(Attrs::is_file) else {
        return Err(stale(&token.path, "is not staged any more"));
    };
    let time = request.attributes.mtime.map(seconds);
    let same = attrs.size == Some(request.size) && (time.is_none() || attrs.mtime == time);
    let old = matches!(&request.expect, Expect::Version(v) if *v == version(&attrs));
    if !same || old {
        return Err(stale(&token.path, "is not staged any more"));
    }
    sftp.sync_dir(link, call, &request.path.parent().unwrap_or_default())?;
    Ok(entry(request.path.clone(), &attrs))
}
