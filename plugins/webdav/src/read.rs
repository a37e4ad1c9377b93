//! Reading: GET with a range. A server that ignores ranges sends all; the part asked for is taken from that.

use offsite_plugin_api::{Call, Error, ErrorKind, Range, Result, Sink, TargetPath, Token};
use url::Url;

use super::chunked;
use super::client::WebDav;
use super::error::{changed, shown, stale};
use super::http::{Answer, Request};
use super::write::Staging;

pub fn get(
    dav: &WebDav,
    call: &Call,
    path: &TargetPath,
    range: Option<Range>,
    if_version: Option<&str>,
    sink: &dyn Sink,
) -> Result<()> {
    if let Some(wanted) = if_version {
        dav.expect_version(call, path, wanted)?;
    }
    fetch(dav, call, dav.files.url(path, false), range, &shown(path), sink)?;
    match if_version {
        // Replaced while it was read: what came is of neither.
        Some(wanted) => match dav.expect_version(call, path, wanted) {
            Err(e) if *e.kind() == ErrorKind::NotFound => Err(changed(path, true)),
            other => other.map(drop),
        },
        None => Ok(()),
    }
}

pub fn staged(dav: &WebDav, call: &Call, token: &Token, range: Range, sink: &dyn Sink) -> Result<()> {
    let path = match Staging::parse(token)? {
        Staging::Upload { upload } => return chunked::read(dav, call, &upload, range, sink),
        Staging::File(file) => file.path,
        Staging::Partial { partial } => partial,
    };
    fetch(dav, call, dav.files.url(&path, false), Some(range), &shown(&path), sink).map_err(|e| {
        match e.kind() {
            ErrorKind::NotFound => stale(&path, "is not staged any more"),
            _ => e,
        }
    })
}

/// Gives exactly the range to the sink. Errors: `Corrupt` where the file ends before it.
pub fn fetch(
    dav: &WebDav,
    call: &Call,
    url: Url,
    range: Option<Range>,
    what: &str,
    sink: &dyn Sink,
) -> Result<()> {
    let mut request = Request::new("GET", url)
        .header("accept-encoding", "identity")
        // A proxy's copy proves nothing about the server.
        .header("cache-control", "no-cache");
    if let Some(range) = range {
        if range.length == 0 {
            return Ok(());
        }
        request = request.header("range", format!("bytes={}-{}", range.offset, range.end() - 1));
    }
    let mut answer = dav.http.send(call, &request, "read", what)?;
    let (mut skip, mut left) = match (answer.code(), range) {
        (200, None) => (0, u64::MAX),
        (200, Some(range)) => (range.offset, range.length),
        (206, Some(range)) if starts_at(&answer) == Some(range.offset) => (0, range.length),
        (206, _) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("cannot read {what}: the server sends another part than was asked for"),
            ));
        }
        _ => return Err(dav.http.fail(call, answer, "read", what)),
    };
    if answer.header("content-encoding").is_some_and(|e| !e.eq_ignore_ascii_case("identity")) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("cannot read {what}: the server sends it compressed"),
        ));
    }
    while left > 0 {
        let Some(piece) = dav.http.chunk(call, &mut answer, "read", what)? else { break };
        let from = skip.min(piece.len() as u64);
        skip -= from;
        let wanted = (piece.len() as u64 - from).min(left);
        if wanted > 0 {
            sink.write(&piece[from as usize..(from + wanted) as usize])?;
        }
        if range.is_some() {
            left -= wanted;
        }
    }
    if range.is_some() && left > 0 {
        return Err(Error::new(ErrorKind::Corrupt, format!("{what} ends {left} bytes before it should")));
    }
    if range.is_some() && answer.code() == 206 {
        // Its end is there already; reading it frees the connection for the next request.
        dav.http.drain(call, answer);
    }
    Ok(())
}

/// `bytes 0-499/1234`
fn starts_at(answer: &Answer) -> Option<u64> {
    answer.header("content-range")?.trim().strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}
