//! Sending a file in ranges: PUT with `Content-Range` (RFC 9110 §14.5), which Apache's mod_dav_fs writes into the file where
//! they belong, in any order and several at once. So an interrupted upload is taken up again.
//!
//! A server that does not know the header takes each range for the whole file. So only mod_dav_fs, which names itself, is asked,
//! and before the first large file two single bytes show whether they end up beside each other, whatever stands in between.
//! The file is made with its first byte; all others want it to be there (`If-Match: *`): were it deleted meanwhile, a range would
//! make a file full of holes.

use std::sync::atomic::Ordering;

use offsite_plugin_api::{Call, Error, Range, Ranges, Result, Session, Source, StageRequest, Staged, Token};

use super::body::Upload;
use super::change::remove;
use super::client::WebDav;
use super::error::{shown, stale};
use super::parts::{Parts, Put, Size};
use super::stage::{self, PATIENCE};
use super::write::Staging;

/// In the header `DAV` of a mod_dav that keeps files (its other providers take whole ones only).
const MOD_DAV_FS: &str = "<http://apache.org/dav/propset/fs/";

pub fn understood(classes: Option<&str>) -> bool {
    classes.is_some_and(|classes| classes.contains(MOD_DAV_FS))
}

/// What may be under way at most, all streams together: what a kill costs.
const AHEAD: u64 = 64 << 20;

/// Errors: `Unsupported` where the server turns out to take no ranges.
pub fn stage(
    dav: &WebDav,
    call: &Call,
    request: &StageRequest,
    source: &dyn Source,
    session: &dyn Session,
) -> Result<Staged> {
    let put = |range: Range, stop: &dyn Fn() -> bool| put(dav, call, request, source, range, stop);
    let done = match &request.resume {
        Some(resume) => resumed(dav, call, request, &resume.token, &resume.ranges)?,
        None => begin(dav, call, request, &put)?,
    };
    let parts = Parts {
        call,
        request,
        session,
        token: Staging::Partial { partial: request.staging.clone() }.token(),
        size: Size::UpTo(dav.config.chunk_size.min(AHEAD / u64::from(request.streams.max(1)))),
        put: &put,
    };
    parts.send(done)?;
    stage::staged(dav, call, request, PATIENCE)
}

/// What the checkpoint named, if the file can hold it. The host has read it back.
fn resumed(
    dav: &WebDav,
    call: &Call,
    request: &StageRequest,
    token: &Token,
    ranges: &[Range],
) -> Result<Ranges> {
    let path = match Staging::parse(token)? {
        Staging::Partial { partial } => partial,
        Staging::File(file) => file.path,
        Staging::Upload { .. } => return Err(stale(&request.path, "was staged in another way")),
    };
    if path != request.staging {
        return Err(stale(&request.path, "was staged under another name"));
    }
    let done = Ranges::from_list(ranges);
    let found = dav.look(call, &path)?.filter(|found| !found.collection);
    let Some(found) = found else { return Err(stale(&path, "is not staged any more")) };
    let held = dav.entry(call, path.clone(), &found)?.size;
    if held < done.end() || held > request.size || done.end() > request.size {
        return Err(stale(&path, "is not what was staged"));
    }
    Ok(done)
}

/// A new file with its first byte. Always a new one: somebody who died may still write to the old.
fn begin(dav: &WebDav, call: &Call, request: &StageRequest, put: &Put<'_>) -> Result<Ranges> {
    let what = shown(&request.staging);
    remove(dav, call, dav.files.url(&request.staging, false), &what)?;
    let mut done = Ranges::default();
    let proved = dav.takes_ranges.load(Ordering::Relaxed);
    for offset in 0..if proved { 1 } else { 2 } {
        let range = Range { offset, length: 1 };
        put(range, &|| false)?;
        done.insert(range);
    }
    if !proved {
        let held = match dav.look(call, &request.staging)? {
            Some(found) => dav.entry(call, request.staging.clone(), &found)?.size,
            None => 0,
        };
        if held != 2 {
            return Err(Error::unsupported("parts of files at this server")
                .with_source(format!("of two bytes, sent one at a time, it holds {held}")));
        }
        dav.takes_ranges.store(true, Ordering::Relaxed);
    }
    Ok(done)
}

fn put(
    dav: &WebDav,
    call: &Call,
    request: &StageRequest,
    source: &dyn Source,
    range: Range,
    stop: &dyn Fn() -> bool,
) -> Result<()> {
    let what = shown(&request.path);
    let within = format!("bytes {}-{}/{}", range.offset, range.end() - 1, request.size);
    let mut headers =
        vec![("content-type", "application/octet-stream".to_owned()), ("content-range", within)];
    if range.offset > 0 {
        headers.push(("if-match", "*".to_owned()));
    }
    let url = dav.files.url(&request.staging, false);
    let answer = dav.http.put(&Upload { call, source, range, url, headers, what: &what, stop })?;
    let proved = dav.takes_ranges.load(Ordering::Relaxed);
    match answer.code() {
        // Made anew by this range, if something between here and there dropped the condition.
        201 | 412 if range.offset > 0 && proved => {
            dav.http.drain(call, answer);
            Err(stale(&request.path, "is not staged any more"))
        }
        201 if range.offset > 0 => {
            dav.http.drain(call, answer);
            Err(Error::unsupported("parts of files at this server"))
        }
        // RFC 9110 §14.5 and §9.3.4: how servers, and what guards them, refuse what they do not know.
        400 | 403 | 405 | 411 | 412 | 415 | 416 | 417 | 428 | 501 if !proved => {
            let why = dav.http.fail(call, answer, "write", &what).to_string();
            Err(Error::unsupported("parts of files at this server").with_source(why))
        }
        _ => stage::taken(dav, call, answer, &request.staging, &what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apaches_file_system_provider_is_known_by_what_it_says() {
        assert!(understood(Some("1,2, <http://apache.org/dav/propset/fs/1>")));
        for other in [None, Some("1, 2"), Some("1,2, <http://subversion.tigris.org/xmlns/dav/svn/depth>")] {
            assert!(!understood(other), "{other:?}");
        }
    }
}
