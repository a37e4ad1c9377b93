//! Deleting, renaming, attributes: made durable by a sync of the directory where the server can do that.

use std::collections::BTreeMap;

use offsite_plugin_api::{Attributes, Call, Entry, Error, ErrorKind, Expect, Result, TargetPath};

use super::client::{Sftp, entry, expected, missing, seconds};
use super::error::shown;
use super::link::Link;
use super::wire::{self, Attrs, Out, SetAttrs};
use super::write::move_to;

/// Deletions in flight.
const AHEAD: usize = 32;

pub fn delete(sftp: &Sftp, call: &Call, path: &TargetPath, expect: &Expect) -> Result<()> {
    let mut link = sftp.lease(call)?;
    let item = (path.clone(), expect.clone());
    let result = remove(sftp, &mut link, call, &[&item])?.remove(0);
    if result.is_ok() {
        sftp.sync_dir(&mut link, call, &path.parent().unwrap_or_default())?;
    }
    result
}

/// Several at a time, and one sync for each directory instead of one for each file.
pub fn delete_batch(sftp: &Sftp, call: &Call, items: &[(TargetPath, Expect)]) -> Result<Vec<Result<()>>> {
    let mut link = sftp.lease(call)?;
    let mut results: Vec<Result<()>> = items.iter().map(|_| Ok(())).collect();
    let mut by_parent = BTreeMap::<TargetPath, Vec<usize>>::new();
    for (index, (path, _)) in items.iter().enumerate() {
        by_parent.entry(path.parent().unwrap_or_default()).or_default().push(index);
    }
    for (parent, indices) in by_parent {
        for some in indices.chunks(AHEAD) {
            let batch: Vec<_> = some.iter().map(|&i| &items[i]).collect();
            for (&index, result) in some.iter().zip(remove(sftp, &mut link, call, &batch)?) {
                results[index] = result;
            }
        }
        sftp.sync_dir(&mut link, call, &parent)?;
    }
    Ok(results)
}

/// Looks at all, then removes what is as expected.
fn remove(
    sftp: &Sftp,
    link: &mut Link,
    call: &Call,
    items: &[&(TargetPath, Expect)],
) -> Result<Vec<Result<()>>> {
    let mut looks = Vec::with_capacity(items.len());
    for (path, _) in items {
        looks.push(link.request(call, wire::LSTAT, Out::default().bytes(&sftp.at(path)))?);
    }
    let mut sent = Vec::with_capacity(items.len());
    for ((path, expect), look) in items.iter().zip(looks) {
        let attrs = lasting(link.attrs(call, look, "delete", path))?;
        let may = attrs.and_then(|attrs| {
            if path.is_root() {
                return Err(Error::new(ErrorKind::Denied, "the target's own folder is never deleted"));
            }
            expected(path, expect, Some(&attrs)).map(|()| attrs)
        });
        sent.push(match may {
            Err(error) => Err(error),
            Ok(attrs) => {
                let kind = if attrs.is_dir() { wire::RMDIR } else { wire::REMOVE };
                Ok((link.request(call, kind, Out::default().bytes(&sftp.at(path)))?, attrs))
            }
        });
    }
    let mut results = Vec::with_capacity(items.len());
    for ((path, _), sent) in items.iter().zip(sent) {
        results.push(match sent {
            Err(error) => Err(error),
            Ok((id, attrs)) => {
                lasting(link.done(call, id, "delete", path))?.map_err(|e| not_empty(e, path, &attrs))
            }
        });
    }
    Ok(results)
}

/// An error of one file is its result; one of the connection ends the call.
fn lasting<T>(result: Result<T>) -> Result<Result<T>> {
    use ErrorKind as K;
    match result {
        Err(e) if matches!(e.kind(), K::Cancelled | K::TimedOut | K::Interrupted | K::Unreachable) => Err(e),
        other => Ok(other),
    }
}

/// OpenSSH has only `failure` for it.
fn not_empty(error: Error, path: &TargetPath, attrs: &Attrs) -> Error {
    if attrs.is_dir() && *error.kind() == ErrorKind::Other {
        return Error::new(
            ErrorKind::PreconditionFailed,
            format!("the directory {} is not empty", shown(path)),
        )
        .with_source(error.source_text().unwrap_or_default().to_owned());
    }
    error
}

pub fn rename(
    sftp: &Sftp,
    call: &Call,
    from: &TargetPath,
    to: &TargetPath,
    expect: &Expect,
) -> Result<Entry> {
    let mut link = sftp.lease(call)?;
    let link = &mut *link;
    let asked = [
        link.request(call, wire::LSTAT, Out::default().bytes(&sftp.at(from)))?,
        link.request(call, wire::LSTAT, Out::default().bytes(&sftp.at(to)))?,
    ];
    link.attrs(call, asked[0], "rename", from)?;
    let there = missing(link.attrs(call, asked[1], "look at", to))?;
    if from.parent() != to.parent() {
        sftp.make_dirs(link, call, &to.parent().unwrap_or_default())?;
    }
    let attrs = move_to(sftp, link, call, [from, to], expect, there.as_ref(), None)?;
    Ok(entry(to.clone(), &attrs))
}

pub fn set_attributes(sftp: &Sftp, call: &Call, path: &TargetPath, attributes: &Attributes) -> Result<Entry> {
    if attributes.retention.is_some() {
        return Err(Error::unsupported("retention: an SFTP server cannot lock its files"));
    }
    let mut link = sftp.lease(call)?;
    let link = &mut *link;
    let attrs = sftp.lstat(link, call, path)?;
    let Some(mtime) = attributes.mtime.map(seconds) else { return Ok(entry(path.clone(), &attrs)) };
    if !attrs.is_file() {
        return Err(Error::new(ErrorKind::Unsupported, format!("{} is not a file", shown(path))));
    }
    let body = Out::default().bytes(&sftp.at(path)).u32(wire::OPEN_WRITE).attrs(&SetAttrs::default());
    let id = link.request(call, wire::OPEN, body)?;
    let handle = link.handle(call, id, "open", path)?;
    let set = SetAttrs { mtime: Some(mtime), ..SetAttrs::default() };
    let set = link.request(call, wire::FSETSTAT, Out::default().bytes(&handle).attrs(&set))?;
    let sync = match link.features.fsync {
        true => Some(link.extended(call, b"fsync@openssh.com", Out::default().bytes(&handle))?),
        false => None,
    };
    let close = link.request(call, wire::CLOSE, Out::default().bytes(&handle))?;
    link.abandon(close);
    link.done(call, set, "set the time of", path)?;
    if let Some(id) = sync {
        link.done(call, id, "make durable", path)?;
    }
    Ok(entry(path.clone(), &sftp.lstat(link, call, path)?))
}
