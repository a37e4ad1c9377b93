//! Staged files: their tokens, and what becomes of them.
//!
//! Staged bytes lie in the image's own directory under the host's staging name; publishing is one rename of the open file,
//! which the server does in one act, then a flush.

use offsite_plugin_api::{
    Call, Entry, Error, ErrorKind, Expect, PublishRequest, Result, StagedInfo, TargetPath, Token,
};
use serde::{Deserialize, Serialize};
use smb2::msg::create::CreateDisposition;
use smb2::pack::FileTime;

use super::change::{self, make_dirs};
use super::client::{LONG, SHORT, Smb};
use super::error::{ACCESS_DENIED, OBJECT_NAME_NOT_FOUND, OBJECT_PATH_NOT_FOUND, shown, stale, status};
use super::file::File;
use super::names::{entry_of, to_filetime};
use super::share::{About, Access, Live, Options};

/// What a token holds: where the bytes are, and the file's number on the server (0 where it has none).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagingToken {
    pub path: TargetPath,
    pub id: u64,
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
        if owner_of(parsed.path.name()).is_none() {
            return Err(bad("it names no staged file".to_owned()));
        }
        Ok(parsed)
    }

    pub fn is(&self, about: &About) -> bool {
        self.id == 0 || about.id == self.id
    }

    /// Errors: `StaleToken` for another file under the name.
    pub fn same(&self, about: &About) -> Result<()> {
        if self.is(about) { Ok(()) } else { Err(stale(&self.path, "was replaced by another staged file")) }
    }

    pub fn gone(&self) -> Error {
        stale(&self.path, "is not staged any more")
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

/// `changed`: when the server says that the file last changed.
pub fn info(path: &TargetPath, id: u64, bytes: u64, changed: FileTime) -> StagedInfo {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = to_filetime(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)).0;
    StagedInfo {
        token: StagingToken { path: path.clone(), id }.token(),
        path: Some(path.clone()),
        owner: owner_of(path.name()).unwrap_or_default(),
        bytes,
        age: Some(now.saturating_sub(changed.0) / 10_000_000),
    }
}

pub fn absent(error: &smb2::Error) -> bool {
    matches!(status(error), Some(OBJECT_NAME_NOT_FOUND | OBJECT_PATH_NOT_FOUND | 0xC000_000F))
}

pub fn stat_staged(smb: &Smb, call: &Call, token: &Token) -> Result<StagedInfo> {
    let token = StagingToken::parse(token)?;
    let name = smb.wire(&token.path)?;
    let found = smb.on(call, "look at", &token.path, SHORT, |live| async move {
        match live.look(&name).await {
            Err(error) if absent(&error) => Ok(None),
            other => other.map(Some),
        }
    })?;
    let about = found.ok_or_else(|| token.gone())?;
    token.same(&about)?;
    Ok(info(&token.path, about.id, about.size, about.changed))
}

pub fn discard(smb: &Smb, call: &Call, token: &Token) -> Result<()> {
    let token = StagingToken::parse(token)?;
    match change::delete(smb, call, &token.path, &Expect::Any) {
        Err(error) if *error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// How a publish went at the server.
enum Outcome {
    Done(About),
    /// Nothing, or another file, has the staging name; what has the target's name.
    NotStaged(Option<About>),
    Short(u64),
    /// The target's name is not as expected.
    Unexpected(bool),
    InUse,
}

pub fn publish(smb: &Smb, call: &Call, request: &PublishRequest) -> Result<Entry> {
    let token = StagingToken::parse(&request.token)?;
    let (from, to) = (smb.wire(&token.path)?, smb.wire(&request.path)?);
    if token.path.parent() != request.path.parent() {
        make_dirs(smb, call, &request.path.parent().unwrap_or_default())?;
    }
    let (size, expect, id) = (request.size, request.expect.clone(), token.id);
    let mtime = request.attributes.mtime.map(|t| t.ns);
    let path = request.path.clone();
    let outcome = smb.on(call, "publish", &request.path, LONG, |live| async move {
        let opened =
            File::open(&live, &from, CreateDisposition::FileOpen, Access::WRITE, Options::FILE).await;
        let (file, held) = match opened {
            Err(error) if absent(&error) => return Ok(Outcome::NotStaged(there(&live, &to).await?)),
            other => other?,
        };
        if id != 0 && held.id != id {
            file.close().await;
            return Ok(Outcome::NotStaged(there(&live, &to).await?));
        }
        if held.size != size {
            file.close().await;
            return Ok(Outcome::Short(held.size));
        }
        if let Some(ns) = mtime.filter(|ns| to_filetime(*ns) != held.written) {
            live.set_written(*file, to_filetime(ns)).await?;
        }
        if let Expect::Version(wanted) = &expect {
            let found = there(&live, &to).await?;
            if found.is_none_or(|about| entry_of(path, &about).version.as_ref() != Some(wanted)) {
                file.close().await;
                return Ok(Outcome::Unexpected(false));
            }
        }
        let replace = !matches!(expect, Expect::Absent);
        match live.rename(*file, &to, replace).await {
            Err(error) if !replace && status(&error) == Some(super::error::OBJECT_NAME_COLLISION) => {
                file.close().await;
                return Ok(Outcome::Unexpected(true));
            }
            // What somebody reads cannot be replaced by the rules of the protocol, and this is how servers say so.
            Err(error) if replace && status(&error) == Some(ACCESS_DENIED) => {
                let taken = there(&live, &to).await?.is_some();
                file.close().await;
                return if taken { Ok(Outcome::InUse) } else { Err(error) };
            }
            other => other?,
        }
        Ok(Outcome::Done(file.flushed().await?))
    })?;
    match outcome {
        Outcome::Done(about) => Ok(entry_of(request.path.clone(), &about)),
        Outcome::Short(held) => Err(Error::new(
            ErrorKind::Corrupt,
            format!("{} holds {held} bytes of {size}", shown(&token.path)),
        )),
        Outcome::Unexpected(true) => {
            Err(Error::new(ErrorKind::Exists, format!("{} exists already", shown(&request.path))))
        }
        Outcome::Unexpected(false) => Err(changed(&request.path)),
        Outcome::InUse => Err(in_use(&request.path)),
        // A repeat after success: the name already has the staged file.
        Outcome::NotStaged(Some(about)) if token.id != 0 && token.is(&about) && about.size == size => {
            Ok(entry_of(request.path.clone(), &about))
        }
        Outcome::NotStaged(_) => Err(token.gone()),
    }
}

pub fn changed(path: &TargetPath) -> Error {
    Error::new(ErrorKind::PreconditionFailed, format!("{} is not what was expected there", shown(path)))
}

pub fn in_use(path: &TargetPath) -> Error {
    Error::new(ErrorKind::Busy, format!("{} cannot be replaced now", shown(path)))
        .with_context("hint", "it is open on the server, or the account may not replace it")
}

pub async fn there(live: &Live, name: &str) -> smb2::Result<Option<About>> {
    match live.look(name).await {
        Err(error) if absent(&error) => Ok(None),
        other => other.map(Some),
    }
}
