//! Reading files and staged bytes: several requests in flight, handed over in order.

use std::collections::VecDeque;

use offsite_plugin_api::{Call, Error, ErrorKind, Range, Result, Sink, TargetPath, Token};

use super::client::{Sftp, version};
use super::error::{EOF, changed, stale, status};
use super::link::Link;
use super::wire::{self, Attrs, Out, Reply, SetAttrs};
use super::write::StagingToken;

/// Bytes asked for ahead: what a connection carries in 50 ms at 80 MB/s.
const AHEAD: u64 = 4 << 20;
/// The first request, so that a sample of a few bytes stays small; then larger ones.
const PIECE: u64 = 128 * 1024;

pub fn staged(sftp: &Sftp, call: &Call, token: &Token, range: Range, sink: &dyn Sink) -> Result<()> {
    let token = StagingToken::parse(token)?;
    let mut link = sftp.lease(call)?;
    let handle = match open_own(sftp, &mut link, call, &token.path) {
        Err(e) if *e.kind() == ErrorKind::NotFound => {
            return Err(stale(&token.path, "is not staged any more"));
        }
        other => other?,
    };
    copy(&mut link, call, &token.path, &handle, range, sink)
}

pub fn get(
    sftp: &Sftp,
    call: &Call,
    path: &TargetPath,
    range: Option<Range>,
    if_version: Option<&str>,
    sink: &dyn Sink,
) -> Result<()> {
    let mut link = sftp.lease(call)?;
    let (handle, attrs) = open(sftp, &mut link, call, path)?;
    if if_version.is_some_and(|wanted| wanted != version(&attrs)) {
        link.let_go(&handle);
        return Err(changed(path, false));
    }
    let range = range.unwrap_or(Range { offset: 0, length: attrs.size.unwrap_or(0) });
    copy(&mut link, call, path, &handle, range, sink)
}

/// Opens a regular file. What it is is looked at first: opening a pipe would hold the server.
fn open(sftp: &Sftp, link: &mut Link, call: &Call, path: &TargetPath) -> Result<(Vec<u8>, Attrs)> {
    let attrs = sftp.lstat(link, call, path)?;
    if !attrs.is_file() {
        return Err(Error::new(ErrorKind::Unsupported, format!("'{}' is not a file", path.display())));
    }
    let body = Out::default().bytes(&sftp.at(path)).u32(wire::OPEN_READ).attrs(&SetAttrs::default());
    let id = link.request(call, wire::OPEN, body)?;
    let handle = link.handle(call, id, "read", path)?;
    Ok((handle, attrs))
}

/// Opens a staging file. It was made as a regular file by us, under a name of our own: what it is is asked in the same
/// round trip.
fn open_own(sftp: &Sftp, link: &mut Link, call: &Call, path: &TargetPath) -> Result<Vec<u8>> {
    let at = sftp.at(path);
    let look = link.request(call, wire::LSTAT, Out::default().bytes(&at))?;
    let body = Out::default().bytes(&at).u32(wire::OPEN_READ).attrs(&SetAttrs::default());
    let open = link.request(call, wire::OPEN, body)?;
    let attrs = link.attrs(call, look, "look at", path)?;
    let handle = link.handle(call, open, "read", path)?;
    if attrs.is_file() {
        return Ok(handle);
    }
    link.let_go(&handle);
    Err(Error::new(ErrorKind::Unsupported, format!("'{}' is not a file", path.display())))
}

/// Gives the range to the sink and closes the handle.
fn copy(
    link: &mut Link,
    call: &Call,
    path: &TargetPath,
    handle: &[u8],
    range: Range,
    sink: &dyn Sink,
) -> Result<()> {
    let result = pieces(link, call, path, handle, range, sink);
    link.let_go(handle);
    result
}

fn pieces(
    link: &mut Link,
    call: &Call,
    path: &TargetPath,
    handle: &[u8],
    range: Range,
    sink: &dyn Sink,
) -> Result<()> {
    let most = (link.features.most_read as u64).min(PIECE);
    let end = range.end();
    let mut next = range.offset;
    let mut asked: VecDeque<(u32, u64, u64)> = VecDeque::new();
    let ask = |link: &mut Link, offset: u64, length: u64| {
        link.request(call, wire::READ, Out::default().bytes(handle).u64(offset).u32(length as u32))
    };
    loop {
        while next < end && asked.iter().map(|(_, _, n)| n).sum::<u64>() < AHEAD {
            let length = (end - next).min(most);
            asked.push_back((ask(link, next, length)?, next, length));
            next += length;
        }
        let Some((id, offset, length)) = asked.pop_front() else { return Ok(()) };
        call.proceed()?;
        match link.answer(call, id)? {
            Reply::Data(bytes) if bytes.len() as u64 > length => return Err(link.confused()),
            Reply::Data(bytes) => {
                sink.write(&bytes)?;
                let got = bytes.len() as u64;
                if got == 0 {
                    return Err(short(path, offset, end));
                }
                if got < length {
                    // A server may give less than was asked: the rest of this piece comes next.
                    let (offset, length) = (offset + got, length - got);
                    asked.push_front((ask(link, offset, length)?, offset, length));
                }
            }
            Reply::Status(EOF, _) => return Err(short(path, offset, end)),
            Reply::Status(code, words) => return Err(status("read", path, code, &words)),
            _ => return Err(link.confused()),
        }
    }
}

fn short(path: &TargetPath, at: u64, end: u64) -> Error {
    Error::new(ErrorKind::Corrupt, format!("'{}' ends at byte {at} and should reach {end}", path.display()))
}
