//! Plain types to and from their records, both ways on both sides of the boundary.
//!
//! What comes from the other side is checked here: a path that could leave the root, a token that is too long, an
//! unknown expectation or JSON that does not parse is an error, not a value.

use std::collections::BTreeMap;
use std::time::Duration;

use abi_stable::std_types::{ROption, RResult, RString, RVec, Tuple2};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::{Zeroize, Zeroizing};

use super::v1::{
    DeleteV1, DigestV1, EntryV1, ErrorV1, ExpectV1, ObjectV1, PageV1, RangeV1, Res, ResumeFromV1,
    RetentionV1, SecretV1, StageRequestV1, StagedInfoV1, StagedV1, TimestampV1,
};
use crate::{
    Digest, Entry, EntryKind, Error, ErrorKind, Expect, Level, Object, Page, Range, Result, ResumeFrom,
    Retention, Retry, Secrets, StageRequest, Staged, StagedInfo, TargetPath, Timestamp, Token,
};

/// A plain type as its record.
pub(crate) fn wire<T, W: From<T>>(value: T) -> W {
    W::from(value)
}

pub(crate) fn to_result<T, W: From<T>>(result: Result<T>) -> Res<W> {
    match result {
        Ok(value) => RResult::ROk(value.into()),
        Err(error) => RResult::RErr(error.into()),
    }
}

pub(crate) fn from_result<T>(result: Res<T>) -> Result<T> {
    result.into_result().map_err(Error::from)
}

pub(crate) fn list<T, W: From<T>>(values: Vec<T>) -> RVec<W> {
    values.into_iter().map(W::from).collect()
}

pub(crate) fn option<T, W: From<T>>(value: Option<T>) -> ROption<W> {
    value.map(W::from).into()
}

/// Nanoseconds; what does not fit in 584 years is as good as for ever.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn level(number: u32) -> Level {
    match number {
        0 | 1 => Level::Error,
        2 => Level::Warn,
        3 => Level::Info,
        4 => Level::Debug,
        _ => Level::Trace,
    }
}

/// JSON for a descriptive record; `what` names it in the error.
pub(crate) fn to_json<T: Serialize>(what: &str, value: &T) -> Result<RString> {
    match serde_json::to_string(value) {
        Ok(text) => Ok(text.into()),
        Err(error) => {
            Err(Error::new(ErrorKind::Other, format!("cannot pass {what} on")).with_source(error.to_string()))
        }
    }
}

pub(crate) fn from_json<T: DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        Error::new(ErrorKind::Corrupt, format!("{what} that crossed the plugin boundary cannot be read"))
            .with_source(error.to_string())
    })
}

pub(crate) fn path(bytes: &[u8]) -> Result<TargetPath> {
    TargetPath::new(bytes)
}

pub(crate) fn token(bytes: &[u8]) -> Result<Token> {
    if bytes.len() > Token::MAX {
        let found = bytes.len();
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("a staging token of {found} bytes is longer than {} bytes", Token::MAX),
        ));
    }
    Ok(Token(bytes.to_vec()))
}

impl From<Error> for ErrorV1 {
    fn from(error: Error) -> Self {
        let (retry, after_ns) = match error.retry() {
            Retry::Never => (0, 0),
            Retry::Now => (1, 0),
            Retry::After(wait) => (2, nanos(wait)),
        };
        Self {
            kind: error.kind().as_str().into(),
            retry,
            after_ns,
            message: error.message().into(),
            context: error
                .context()
                .iter()
                .map(|(k, v)| Tuple2(k.as_str().into(), v.as_str().into()))
                .collect(),
            source: error.source_text().map(RString::from).into(),
        }
    }
}

impl From<ErrorV1> for Error {
    fn from(wire: ErrorV1) -> Self {
        let retry = match wire.retry {
            1 => Retry::Now,
            2 => Retry::After(Duration::from_nanos(wire.after_ns)),
            _ => Retry::Never,
        };
        let mut error = Error::new(ErrorKind::from_name(&wire.kind), wire.message).with_retry(retry);
        for Tuple2(key, value) in wire.context {
            error = error.with_context(key, value);
        }
        match wire.source {
            ROption::RSome(source) => error.with_source(source),
            ROption::RNone => error,
        }
    }
}

impl From<Range> for RangeV1 {
    fn from(range: Range) -> Self {
        Self { offset: range.offset, length: range.length }
    }
}

impl From<RangeV1> for Range {
    fn from(wire: RangeV1) -> Self {
        Self { offset: wire.offset, length: wire.length }
    }
}

impl From<Timestamp> for TimestampV1 {
    fn from(time: Timestamp) -> Self {
        Self { ns: time.ns, precision_ns: time.precision_ns }
    }
}

impl From<TimestampV1> for Timestamp {
    fn from(wire: TimestampV1) -> Self {
        Self { ns: wire.ns, precision_ns: wire.precision_ns }
    }
}

impl From<Digest> for DigestV1 {
    fn from(digest: Digest) -> Self {
        Self { algorithm: digest.algorithm.into(), value: digest.value.into() }
    }
}

impl From<DigestV1> for Digest {
    fn from(wire: DigestV1) -> Self {
        Self { algorithm: wire.algorithm.into(), value: wire.value.into_vec() }
    }
}

impl From<Retention> for RetentionV1 {
    fn from(retention: Retention) -> Self {
        Self { mode: retention.mode.into(), until: retention.until }
    }
}

impl From<RetentionV1> for Retention {
    fn from(wire: RetentionV1) -> Self {
        Self { mode: wire.mode.into(), until: wire.until }
    }
}

impl From<Entry> for EntryV1 {
    fn from(entry: Entry) -> Self {
        Self {
            path: entry.path.as_bytes().into(),
            kind: match entry.kind {
                EntryKind::File => 0,
                EntryKind::Dir => 1,
                EntryKind::Other => 2,
            },
            size: entry.size,
            mtime: option(entry.mtime),
            version: option(entry.version),
            digests: list(entry.digests),
            retention: option(entry.retention),
            class: option(entry.class),
            extra: entry.extra.into_iter().map(|(k, v)| Tuple2(k.into(), v.into())).collect(),
        }
    }
}

impl TryFrom<EntryV1> for Entry {
    type Error = Error;

    fn try_from(wire: EntryV1) -> Result<Self> {
        Ok(Self {
            path: path(&wire.path)?,
            kind: match wire.kind {
                0 => EntryKind::File,
                1 => EntryKind::Dir,
                _ => EntryKind::Other,
            },
            size: wire.size,
            mtime: wire.mtime.into_option().map(Timestamp::from),
            version: wire.version.into_option().map(String::from),
            digests: digests(wire.digests),
            retention: wire.retention.into_option().map(Retention::from),
            class: wire.class.into_option().map(String::from),
            extra: wire
                .extra
                .into_iter()
                .map(|Tuple2(k, v)| (k.into(), v.into()))
                .collect::<BTreeMap<String, String>>(),
        })
    }
}

pub(crate) fn digests(wire: RVec<DigestV1>) -> Vec<Digest> {
    wire.into_iter().map(Digest::from).collect()
}

impl From<Page> for PageV1 {
    fn from(page: Page) -> Self {
        let incomplete = page.incomplete.into_iter();
        let incomplete = incomplete.map(|(dir, why)| Tuple2(dir.as_bytes().into(), why.into()));
        Self { entries: list(page.entries), next: option(page.next), incomplete: incomplete.collect() }
    }
}

impl TryFrom<PageV1> for Page {
    type Error = Error;

    fn try_from(wire: PageV1) -> Result<Self> {
        let entries = wire.entries.into_iter().map(Entry::try_from).collect::<Result<_>>()?;
        let incomplete = wire.incomplete.into_iter();
        let incomplete = incomplete.map(|Tuple2(dir, why)| Ok((path(&dir)?, why.into())));
        Ok(Self {
            entries,
            next: wire.next.into_option().map(RVec::into_vec),
            incomplete: incomplete.collect::<Result<_>>()?,
        })
    }
}

impl From<&Expect> for ExpectV1 {
    fn from(expect: &Expect) -> Self {
        match expect {
            Expect::Absent => Self { kind: 0, version: RString::new() },
            Expect::Version(version) => Self { kind: 1, version: version.as_str().into() },
            Expect::Any => Self { kind: 2, version: RString::new() },
        }
    }
}

impl TryFrom<ExpectV1> for Expect {
    type Error = Error;

    fn try_from(wire: ExpectV1) -> Result<Self> {
        match wire.kind {
            0 => Ok(Self::Absent),
            1 => Ok(Self::Version(wire.version.into())),
            2 => Ok(Self::Any),
            other => Err(Error::unsupported(&format!("the expectation number {other}"))),
        }
    }
}

impl From<&Object> for ObjectV1 {
    fn from(object: &Object) -> Self {
        match object {
            Object::Path(path) => Self { kind: 0, bytes: path.as_bytes().into() },
            Object::Staged(token) => Self { kind: 1, bytes: token.0.as_slice().into() },
        }
    }
}

impl TryFrom<ObjectV1> for Object {
    type Error = Error;

    fn try_from(wire: ObjectV1) -> Result<Self> {
        match wire.kind {
            0 => Ok(Self::Path(path(&wire.bytes)?)),
            1 => Ok(Self::Staged(token(&wire.bytes)?)),
            other => Err(Error::unsupported(&format!("objects of kind {other}"))),
        }
    }
}

impl From<&ResumeFrom> for ResumeFromV1 {
    fn from(resume: &ResumeFrom) -> Self {
        Self {
            token: resume.token.0.as_slice().into(),
            ranges: resume.ranges.iter().copied().map(wire).collect(),
        }
    }
}

impl TryFrom<ResumeFromV1> for ResumeFrom {
    type Error = Error;

    fn try_from(wire: ResumeFromV1) -> Result<Self> {
        Ok(Self { token: token(&wire.token)?, ranges: wire.ranges.into_iter().map(Range::from).collect() })
    }
}

impl TryFrom<&StageRequest> for StageRequestV1 {
    type Error = Error;

    fn try_from(request: &StageRequest) -> Result<Self> {
        Ok(Self {
            path: request.path.as_bytes().into(),
            staging: request.staging.as_bytes().into(),
            attributes: to_json("attributes", &request.attributes)?,
            size: request.size,
            streams: request.streams,
            owner: request.owner.as_str().into(),
            resume: request.resume.as_ref().map(ResumeFromV1::from).into(),
        })
    }
}

impl TryFrom<StageRequestV1> for StageRequest {
    type Error = Error;

    fn try_from(wire: StageRequestV1) -> Result<Self> {
        Ok(Self {
            path: path(&wire.path)?,
            staging: path(&wire.staging)?,
            attributes: from_json("attributes", &wire.attributes)?,
            size: wire.size,
            streams: wire.streams,
            owner: wire.owner.into(),
            resume: wire.resume.into_option().map(ResumeFrom::try_from).transpose()?,
        })
    }
}

impl From<Staged> for StagedV1 {
    fn from(staged: Staged) -> Self {
        Self { token: staged.token.0.into(), size: staged.size, digests: list(staged.digests) }
    }
}

impl TryFrom<StagedV1> for Staged {
    type Error = Error;

    fn try_from(wire: StagedV1) -> Result<Self> {
        Ok(Self { token: token(&wire.token)?, size: wire.size, digests: digests(wire.digests) })
    }
}

impl From<StagedInfo> for StagedInfoV1 {
    fn from(info: StagedInfo) -> Self {
        Self {
            token: info.token.0.into(),
            path: info.path.map(|p| p.as_bytes().into()).into(),
            owner: info.owner.into(),
            bytes: info.bytes,
            age: info.age.into(),
        }
    }
}

impl TryFrom<StagedInfoV1> for StagedInfo {
    type Error = Error;

    fn try_from(wire: StagedInfoV1) -> Result<Self> {
        Ok(Self {
            token: token(&wire.token)?,
            path: wire.path.into_option().map(|p| path(&p)).transpose()?,
            owner: wire.owner.into(),
            bytes: wire.bytes,
            age: wire.age.into(),
        })
    }
}

impl From<&(TargetPath, Expect)> for DeleteV1 {
    fn from((path, expect): &(TargetPath, Expect)) -> Self {
        Self { path: path.as_bytes().into(), expect: expect.into() }
    }
}

impl TryFrom<DeleteV1> for (TargetPath, Expect) {
    type Error = Error;

    fn try_from(wire: DeleteV1) -> Result<Self> {
        Ok((path(&wire.path)?, wire.expect.try_into()?))
    }
}

/// The secret as bytes for the crossing; the copy handed over is overwritten by [`secret_back`].
pub(crate) fn secret(value: &str) -> RVec<u8> {
    value.as_bytes().into()
}

/// A secret that crossed; the bytes it crossed in are overwritten.
pub(crate) fn secret_back(mut wire: RVec<u8>) -> Result<Zeroizing<String>> {
    let text = std::str::from_utf8(&wire).map(|t| Zeroizing::new(t.to_owned()));
    wire.as_mut_slice().zeroize();
    text.map_err(|_| Error::new(ErrorKind::InvalidConfig, "a secret is not UTF-8 text"))
}

pub(crate) fn secrets(secrets: &Secrets) -> RVec<SecretV1> {
    secrets
        .0
        .iter()
        .map(|(name, value)| SecretV1 { name: name.as_str().into(), value: secret(value) })
        .collect()
}

pub(crate) fn secrets_back(wire: RVec<SecretV1>) -> Result<Secrets> {
    let one = |mut s: SecretV1| Ok((s.name.as_str().to_owned(), secret_back(std::mem::take(&mut s.value))?));
    Ok(Secrets(wire.into_iter().map(one).collect::<Result<_>>()?))
}
