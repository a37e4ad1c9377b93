//! Looking and reading back.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use offsite_plugin_api::{Call, Entry, EntryKind, Error, ErrorKind, Range, Result, Sink, TargetPath, Token};
use smb::{CreateDisposition, CreateOptions, File, FileAccessMask, FileAllInformation, Resource};

use super::client::{LONG, Live, PER_STREAM, SHORT, Smb, looking, open};
use super::error::{failed, lost, shown};
use super::names::entry_of;
use super::runtime::{Held, broken};
use super::write::StagingToken;

pub async fn all(resource: &Resource) -> smb::Result<FileAllInformation> {
    match resource {
        Resource::File(file) => file.query_info().await,
        Resource::Directory(dir) => dir.query_info().await,
        Resource::Pipe(_) => Err(smb::Error::InvalidArgument("it is a pipe".to_owned())),
    }
}

pub async fn close(resource: Resource) {
    // What was asked for is done; the server closes what is left open with the connection.
    let _ = match &resource {
        Resource::File(file) => file.close().await,
        Resource::Directory(dir) => dir.close().await,
        Resource::Pipe(_) => Ok(()),
    };
}

/// Looks at a name without following anything.
pub async fn look(live: &Live, name: &str) -> smb::Result<FileAllInformation> {
    let resource = open(live, name, CreateDisposition::Open, looking(), CreateOptions::new()).await?;
    let all = all(&resource).await;
    close(resource).await;
    all
}

pub fn stat(smb: &Smb, call: &Call, path: &TargetPath) -> Result<Entry> {
    let name = smb.wire(path)?;
    let all = smb.on(call, "look at", path, SHORT, |live| async move { look(&live, &name).await })?;
    Ok(entry_of(path.clone(), &all))
}

/// An open file with what it says of itself.
fn open_file(
    smb: &Smb,
    call: &Call,
    path: &TargetPath,
) -> Result<(Held<File>, Held<Live>, FileAllInformation)> {
    let name = smb.wire(path)?;
    let opened = smb.on(call, "read", path, SHORT, |live| async move {
        let access = looking().with_file_read_data(true);
        let options = CreateOptions::new().with_non_directory_file(true);
        let resource = open(&live, &name, CreateDisposition::Open, access, options).await?;
        let all = all(&resource).await?;
        match resource {
            Resource::File(file) => Ok(Some((Held::new(file), live, all))),
            _ => Ok(None),
        }
    })?;
    opened.ok_or_else(|| Error::new(ErrorKind::Unsupported, format!("{} is not a file", shown(path))))
}

pub fn get(
    smb: &Smb,
    call: &Call,
    path: &TargetPath,
    range: Option<Range>,
    if_version: Option<&str>,
    sink: &dyn Sink,
) -> Result<()> {
    let (file, live, all) = open_file(smb, call, path)?;
    let entry = entry_of(path.clone(), &all);
    if entry.kind != EntryKind::File {
        return Err(Error::new(ErrorKind::Unsupported, format!("{} is not a file", shown(path))));
    }
    if if_version.is_some() && if_version != entry.version.as_deref() {
        let message = format!("{} is not the file it was", shown(path));
        return Err(Error::new(ErrorKind::PreconditionFailed, message));
    }
    let range = range.unwrap_or(Range { offset: 0, length: entry.size });
    copy(smb, call, path, &file, &live, range, sink)
}

pub fn staged(smb: &Smb, call: &Call, token: &Token, range: Range, sink: &dyn Sink) -> Result<()> {
    let token = StagingToken::parse(token)?;
    let (file, live, all) = match open_file(smb, call, &token.path) {
        Err(error) if *error.kind() == ErrorKind::NotFound => return Err(token.gone()),
        other => other?,
    };
    token.same(&all)?;
    copy(smb, call, &token.path, &file, &live, range, sink)
}

type Piece = Receiver<smb::Result<Vec<u8>>>;

/// Gives the range to the sink in order, several reads in flight.
fn copy(
    smb: &Smb,
    call: &Call,
    path: &TargetPath,
    file: &Held<File>,
    live: &Held<Live>,
    range: Range,
    sink: &dyn Sink,
) -> Result<()> {
    let mut next = range.offset;
    let mut flight: VecDeque<Piece> = VecDeque::new();
    loop {
        while flight.len() < PER_STREAM && next < range.end() {
            let length = (range.end() - next).min(live.read) as usize;
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

fn read_piece(smb: &Smb, file: &Held<File>, path: &TargetPath, offset: u64, length: usize) -> Piece {
    let (give, take) = sync_channel(1);
    let (file, shown) = (file.clone(), shown(path));
    smb.runtime.handle.spawn(async move {
        let mut bytes = vec![0; length];
        let mut at = 0;
        let mut result = Ok(());
        while at < length && result.is_ok() {
            // Unbuffered: from the server's disk, where it does such a thing.
            match file.read_block(&mut bytes[at..], offset + at as u64, None, true).await {
                Ok(0) => {
                    result =
                        Err(smb::Error::NotFound(format!("{shown} ends at byte {}", offset + at as u64)));
                }
                Ok(read) => at += read,
                Err(error) => result = Err(smb::Error::IoError(error)),
            }
        }
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

/// Rights to write a file, to set its time, to rename it.
pub fn writing() -> FileAccessMask {
    looking()
        .with_file_read_data(true)
        .with_file_write_data(true)
        .with_file_append_data(true)
        .with_file_write_attributes(true)
        .with_delete(true)
}
