//! Sending a file's bytes under its staging name: in one PUT, or where the server takes them, in chunks or ranges.
//!
//! A PUT cannot be taken up again, so a plain server's only checkpoint is the whole file. What the server took is never
//! believed: its size is asked for afterwards.

use std::sync::atomic::Ordering;
use std::time::Duration;

use offsite_plugin_api::{
    Call, Error, ErrorKind, Level, Range, Result, Retry, Session, Source, StageRequest, Staged, TargetPath,
};

use super::body::Upload;
use super::change::{make_dirs, settled};
use super::client::WebDav;
use super::error::shown;
use super::http::Answer;
use super::write::{StagedFile, Staging};
use super::{chunked, ranges};

/// How long a server may show another size after it said that it has all.
pub const PATIENCE: Duration = Duration::from_secs(5);

pub fn stage(
    dav: &WebDav,
    call: &Call,
    request: &StageRequest,
    source: &dyn Source,
    session: &dyn Session,
) -> Result<Staged> {
    call.proceed()?;
    let facts = dav.facts(call)?;
    make_dirs(dav, call, &request.staging.parent().unwrap_or_default())?;
    if let Some(uploads) = facts.uploads.as_ref().filter(|_| request.size > dav.config.chunk_size) {
        return chunked::stage(dav, call, request, source, session, uploads);
    }
    let ranges = |wanted: bool| wanted && facts.ranges && !dav.whole_only.load(Ordering::Relaxed);
    if ranges(request.size > dav.config.chunk_size)
        && let Some(staged) = in_ranges(dav, call, request, source, session)?
    {
        return Ok(staged);
    }
    match whole(dav, call, request, source, &facts) {
        Err(e) if *e.kind() == ErrorKind::TooLarge && ranges(true) => {
            in_ranges(dav, call, request, source, session)?.ok_or(e)
        }
        other => other,
    }
}

fn whole(
    dav: &WebDav,
    call: &Call,
    request: &StageRequest,
    source: &dyn Source,
    facts: &super::traits::Facts,
) -> Result<Staged> {
    let what = shown(&request.path);
    let upload = Upload {
        call,
        source,
        range: Range { offset: 0, length: request.size },
        url: dav.files.url(&request.staging, false),
        headers: headers(facts, request),
        what: &what,
        stop: &|| false,
    };
    let answer = dav.http.put(&upload)?;
    taken(dav, call, answer, &request.staging, &what)?;
    staged(dav, call, request, PATIENCE)
}

/// `None`: the server turns out to take no ranges.
fn in_ranges(
    dav: &WebDav,
    call: &Call,
    request: &StageRequest,
    source: &dyn Source,
    session: &dyn Session,
) -> Result<Option<Staged>> {
    match ranges::stage(dav, call, request, source, session) {
        Err(e) if *e.kind() == ErrorKind::Unsupported => {
            call.log(Level::Warn, &format!("files are sent as a whole: {e}"));
            dav.whole_only.store(true, Ordering::Relaxed);
            Ok(None)
        }
        Err(e) if *e.kind() == ErrorKind::Corrupt => {
            // What takes ranges one day may lie behind something that drops them the next.
            dav.whole_only.store(true, Ordering::Relaxed);
            Err(e)
        }
        other => other.map(Some),
    }
}

pub fn headers(facts: &super::traits::Facts, request: &StageRequest) -> Vec<(&'static str, String)> {
    let mut headers = vec![("content-type", "application/octet-stream".to_owned())];
    if let Some(mtime) = request.attributes.mtime.filter(|_| facts.keeps_mtime()) {
        headers.push(("x-oc-mtime", mtime.ns.div_euclid(1_000_000_000).to_string()));
    }
    headers
}

/// The answer to a PUT.
pub fn taken(dav: &WebDav, call: &Call, answer: Answer, path: &TargetPath, what: &str) -> Result<()> {
    match answer.code() {
        200..=299 => {
            dav.http.drain(call, answer);
            Ok(())
        }
        404 | 409 => {
            // The directory that was there a moment ago is not: the next attempt makes it again.
            dav.dirs().clear();
            Err(dav.http.fail(call, answer, "write", what).with_retry(Retry::Now))
        }
        405 => Err(Error::new(
            ErrorKind::Exists,
            format!("{} is a directory on the server, or it takes no files there", shown(path)),
        )),
        _ => Err(dav.http.fail(call, answer, "write", what)),
    }
}

/// The whole file under its staging name, as the server shows it.
pub fn staged(dav: &WebDav, call: &Call, request: &StageRequest, patience: Duration) -> Result<Staged> {
    let (entry, found) = settled(dav, call, &request.staging, request.size, patience)?;
    let token = Staging::File(StagedFile::of(&entry, &found)).token();
    let mut fresh = dav.fresh();
    // Only what a run has staged and not published yet is in there; a forgotten one costs one more look.
    if fresh.len() > 10_000 {
        fresh.clear();
    }
    fresh.insert(token.clone());
    Ok(Staged { token, size: entry.size, digests: Vec::new() })
}
