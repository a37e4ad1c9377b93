//! Looking and reading back.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use offsite_plugin_api::{Call, Entry, EntryKind, Error, ErrorKind, Range, Result, Sink, TargetPath, Token};
use smb2::msg::create::CreateDisposition;

use super::client::{LONG, PER_STREAM, SHORT, Smb};
use super::error::{failed, lost, shown};
use super::file::File;
use super::names::entry_of;
use super::runtime::broken;
use super::share::{About, Access, Options};
use super::write::StagingToken;

pub fn stat(smb: &Smb, call: &Call, path: &TargetPath) -> Result<Entry> {
    let name = smb.wire(path)?;
    let about = smb.on(call, "look at", path, SHORT, |live| async move { live.look(&name).await })?;
    Ok(entry_of(path.clone(), &about))
}

/// An open file with what it says of itself.
fn open_file(smb: &Smb, call: &Call, path: &TargetPath) -> Result<(File, About)> {
    let name = smb.wire(path)?;
    smb.on(call, "read", path, SHORT, |live| async move {
        File::open(&live, &name, CreateDisposition::FileOpen, Access::READ, Options::FILE).await
    })
}

pub fn get(
    smb: &Smb,
    call: &Call,
    path: &TargetPath,
    range: Option<Range>,
    if_version: Option<&str>,
    sink: &dyn Sink,
) -> Result<()> {
    let (file, about) = open_file(smb, call, path)?;
    let entry = entry_of(path.clone(), &about);
    if entry.kind != EntryKind::File {
        return Err(Error::new(ErrorKind::Unsupported, format!("{} is not a file", shown(path))));
    }
    if if_version.is_some() && if_version != entry.version.as_deref() {
        let message = format!("{} is not the file it was", shown(path));
        return Err(Error::new(ErrorKind::PreconditionFailed, message));
    }
    let range = range.unwrap_or(Range { offset: 0, length: entry.size });
    copy(smb, call, path, &file, range, sink)
}

pub fn staged(smb: &Smb, call: &Call, token: &Token, range: Range, sink: &dyn Sink) -> Result<()> {
    let token = StagingToken::parse(token)?;
    let (file, about) = match open_file(smb, call, &token.path) {
        Err(error) if *error.kind() == ErrorKind::NotFound => return Err(token.gone()),
        other => other?,
    };
    token.same(&about)?;
    copy(smb, call, &token.path, &file, range, sink)
}

type Piece = Receiver<smb2::Result<Vec<u8>>>;

/// Gives the range to the sink in order, several reads in flight.
fn copy(smb: &Smb, call: &Call, path: &TargetPath, file: &File, range: Range, sink: &dyn Sink) -> Result<()> {
    let mut next = range.offset;
    let mut flight: VecDeque<Piece> = VecDeque::new();
    loop {
        while flight.len() < PER_STREAM && next < range.end() {
            let length = (range.end() - next).min(file.live().read) as usize;
            flight.push_back(read_piece(smb, file, path, next, length));
            next += length as u64;
        }
        let Some(piece) = flight.pop_front() else { return Ok(()) };
        call.proceed()?;
        let bytes = wait(call, &piece).inspect_err(|_| smb.forget())?.map_err(|e| {
            if lost(&e) {
                smb.forget();
            }
            failed("read", path, &e)
        })?;
        sink.write(&bytes)?;
    }
}

fn read_piece(smb: &Smb, file: &File, path: &TargetPath, offset: u64, length: usize) -> Piece {
    let (give, take) = sync_channel(1);
    let (file, shown) = (file.clone(), shown(path));
    smb.runtime.handle.spawn(async move {
        let mut bytes = Vec::new();
        let mut result = Ok(());
        while bytes.len() < length && result.is_ok() {
            let at = offset + bytes.len() as u64;
            match file.live().read(*file, at, length - bytes.len()).await {
                Ok(piece) if piece.is_empty() => {
                    result = Err(smb2::Error::invalid_data(format!("{shown} ends at byte {at}")));
                }
                Ok(piece) if bytes.is_empty() => bytes = piece,
                Ok(piece) => bytes.extend_from_slice(&piece),
                Err(error) => result = Err(error),
            }
        }
        // What follows the last piece may replace the file.
        drop(file);
        let _ = give.send(result.map(|()| bytes));
    });
    take
}

/// Waits for one piece; the call's end ends it.
fn wait<T>(call: &Call, piece: &Receiver<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match piece.recv_timeout(Duration::from_millis(100)) {
            Ok(value) => return Ok(value),
            Err(RecvTimeoutError::Timeout) if begun.elapsed() < LONG => call.proceed()?,
            Err(RecvTimeoutError::Timeout) => {
                return Err(Error::new(ErrorKind::TimedOut, "the server does not answer a read"));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(broken()),
        }
    }
}
