//! Tokens, publishing, discarding.
//!
//! Staged bytes lie in the image's own directory under the host's staging name; publishing is one rename (RNFR, RNTO). Servers
//! differ in whether that overwrites, so the name is looked at first. Whether a rename happened is never taken from its reply
//! alone: where that is lost or says that the staging is gone, the names are looked at.

use offsite_plugin_api::{
    Call, Entry, EntryKind, Error, ErrorKind, Expect, PublishRequest, Result, StagedInfo, TargetPath, Token,
};
use serde::{Deserialize, Serialize};

use super::client::{Ftp, entry};
use super::error::{changed, exists, shown, stale};
use super::facts::Facts;
use super::{change, list};

/// What a token holds: where the bytes are, and what proves that they are the same under another name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagingToken {
    pub path: TargetPath,
    pub size: Option<u64>,
    pub modified: Option<i64>,
    pub unique: Option<String>,
}

impl StagingToken {
    /// Of what is on its way still: nothing but its name is known.
    pub fn begun(path: &TargetPath) -> Self {
        Self { path: path.clone(), size: None, modified: None, unique: None }
    }

    pub fn of(path: &TargetPath, facts: &Facts) -> Self {
        Self { path: path.clone(), size: facts.size, modified: facts.modified, unique: facts.unique.clone() }
    }

    /// Errors: `StaleToken` for what is no token of ours.
    pub fn parse(token: &Token) -> Result<Self> {
        let bad = |why: String| {
            Error::new(ErrorKind::StaleToken, "the staging token is not one of ours").with_source(why)
        };
        if token.0.len() > Token::MAX {
            return Err(bad("it is too long".to_owned()));
        }
        let parsed: Self = serde_json::from_slice(&token.0).map_err(|e| bad(e.to_string()))?;
        // Only what is named as staging is ever published or discarded, whatever a token claims.
        match owner_of(parsed.path.name()) {
            Some(_) => Ok(parsed),
            None => Err(bad("it names no staged file".to_owned())),
        }
    }

    pub fn token(&self) -> Token {
        Token(serde_json::to_vec(self).expect("names and numbers serialise"))
    }

    /// Whether `facts` are of this file, under whatever name, as far as the server tells.
    fn is(&self, facts: &Facts) -> bool {
        facts.kind == EntryKind::File
            && self.size.is_none_or(|size| facts.size == Some(size))
            && self.unique.as_ref().is_none_or(|unique| facts.unique.as_ref() == Some(unique))
            && self.modified.is_none_or(|modified| facts.modified == Some(modified))
    }

    /// Whether that proves anything.
    fn proves(&self) -> bool {
        self.size.is_some() && (self.unique.is_some() || self.modified.is_some())
    }
}

/// The owner in a staging name `offsite-<owner>-<hash>.part`.
pub fn owner_of(name: &[u8]) -> Option<String> {
    let middle = name.strip_prefix(b"offsite-")?.strip_suffix(b".part")?;
    let dash = middle.iter().rposition(|&b| b == b'-')?;
    let (owner, hash) = (&middle[..dash], &middle[dash + 1..]);
    (!owner.is_empty() && !hash.is_empty()).then(|| String::from_utf8_lossy(owner).into_owned())
}

pub fn info(entry: &Entry) -> StagedInfo {
    let modified = entry.mtime.map(|time| time.ns.div_euclid(1_000_000_000));
    // The version ends with it.
    let unique = entry.version.as_deref().and_then(|version| version.splitn(3, '-').nth(2));
    let unique = unique.filter(|unique| !unique.is_empty()).map(str::to_owned);
    StagedInfo {
        token: StagingToken { path: entry.path.clone(), size: Some(entry.size), modified, unique }.token(),
        path: Some(entry.path.clone()),
        owner: owner_of(entry.path.name()).unwrap_or_default(),
        bytes: entry.size,
        age: list::age(modified),
    }
}

/// The staged file of a token: still there, still the same. `None`: nothing has its name.
fn find(ftp: &Ftp, call: &Call, token: &StagingToken) -> Result<Option<Facts>> {
    match ftp.look(call, &token.path)? {
        Some(facts) if token.is(&facts) => Ok(Some(facts)),
        Some(_) => Err(stale(&token.path, "was replaced by another staged file")),
        None => Ok(None),
    }
}

pub fn stat_staged(ftp: &Ftp, call: &Call, token: &Token) -> Result<StagedInfo> {
    let token = StagingToken::parse(token)?;
    match find(ftp, call, &token)? {
        Some(facts) => Ok(StagedInfo { token: token.token(), ..info(&entry(token.path.clone(), &facts)?) }),
        None => Err(stale(&token.path, "is not staged any more")),
    }
}

pub fn discard(ftp: &Ftp, call: &Call, token: &Token) -> Result<()> {
    ftp.fresh().remove(token);
    let token = StagingToken::parse(token)?;
    change::remove(ftp, call, &token.path).map(drop)
}

pub fn publish(ftp: &Ftp, call: &Call, request: &PublishRequest) -> Result<Entry> {
    let token = StagingToken::parse(&request.token)?;
    if token.size.is_some_and(|size| size != request.size) {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{} holds {:?} bytes of {}", shown(&token.path), token.size, request.size),
        ));
    }
    // What another process staged may have changed since.
    if !ftp.fresh().contains(&request.token) {
        match find(ftp, call, &token)? {
            Some(facts) if facts.size == Some(request.size) => {}
            Some(facts) => {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("{} holds {:?} bytes of {}", shown(&token.path), facts.size, request.size),
                ));
            }
            None => {
                let gone = || stale(&token.path, "is not staged any more");
                return published(ftp, call, &token, request)?.ok_or_else(gone);
            }
        }
    }
    match (ftp.look(call, &request.path)?, &request.expect) {
        (None, Expect::Absent | Expect::Any) => {}
        (None, Expect::Version(_)) => return Err(changed(&request.path, true)),
        (Some(_), Expect::Absent) => return Err(exists(&request.path)),
        (Some(facts), Expect::Version(wanted)) if facts.version().as_ref() != Some(wanted) => {
            return Err(changed(&request.path, false));
        }
        // The host was told that names are not replaced here.
        (Some(_), _) => return Err(exists(&request.path)),
    }
    let moved = change::move_file(ftp, call, &token.path, &request.path);
    ftp.fresh().remove(&request.token);
    if let Err(error) = moved {
        return match published(ftp, call, &token, request) {
            Ok(Some(entry)) => Ok(entry),
            Ok(None) if *error.kind() == ErrorKind::NotFound => {
                Err(stale(&token.path, "is not staged any more"))
            }
            _ => Err(error),
        };
    }
    let Some(facts) = ftp.look(call, &request.path)? else {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{} was published and is not there", shown(&request.path)),
        ));
    };
    entry(request.path.clone(), &facts)
}

/// Whether the publish has happened already: the staging is gone, and what has the name is the file that was staged.
fn published(
    ftp: &Ftp,
    call: &Call,
    token: &StagingToken,
    request: &PublishRequest,
) -> Result<Option<Entry>> {
    if !token.proves() {
        return Ok(None);
    }
    let Some(facts) = ftp.look(call, &request.path)? else { return Ok(None) };
    if !token.is(&facts) || ftp.look(call, &token.path)?.is_some() {
        return Ok(None);
    }
    entry(request.path.clone(), &facts).map(Some)
}
