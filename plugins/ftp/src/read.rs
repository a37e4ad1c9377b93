//! Reading: RETR from an offset, broken off where the range ends. Digests that the server computes.

use std::io::Read;
use std::time::Duration;

use offsite_plugin_api::{
    Call, Digest, EntryKind, Error, ErrorKind, Object, Range, Result, Sink, TargetPath, Token,
};

use super::client::{Ftp, look};
use super::error::{Fault, changed, not_found, shown, stale};
use super::names::below;
use super::session::DigestBy;
use super::write::StagingToken;

const PIECE: usize = 256 * 1024;
/// A digest of a large file takes the server's disk its time.
const PATIENCE: Duration = Duration::from_secs(3600);

pub fn get(
    ftp: &Ftp,
    call: &Call,
    path: &TargetPath,
    range: Option<Range>,
    if_version: Option<&str>,
    sink: &dyn Sink,
) -> Result<()> {
    let before = ftp.stat_entry(call, path)?;
    if before.kind != EntryKind::File {
        return Err(Error::new(ErrorKind::Unsupported, format!("{} is not a file", shown(path))));
    }
    if if_version.is_some() && if_version != before.version.as_deref() {
        return Err(changed(path, false));
    }
    let range = range.unwrap_or(Range { offset: 0, length: before.size });
    fetch(ftp, call, path, range, sink)?;
    match if_version {
        // Replaced while it was read: what came is of neither.
        Some(wanted) => match ftp.expect_version(call, path, wanted) {
            Err(e) if *e.kind() == ErrorKind::NotFound => Err(changed(path, true)),
            other => other.map(drop),
        },
        None => Ok(()),
    }
}

pub fn staged(ftp: &Ftp, call: &Call, token: &Token, range: Range, sink: &dyn Sink) -> Result<()> {
    let path = StagingToken::parse(token)?.path;
    let gone = || stale(&path, "is not staged any more");
    if range.length == 0 {
        return ftp.look(call, &path)?.map(drop).ok_or_else(gone);
    }
    fetch(ftp, call, &path, range, sink).map_err(|error| match ftp.look(call, &path) {
        // Servers have many ways to refuse what is not there.
        Ok(None) => gone(),
        _ => error,
    })
}

/// Gives exactly the range to the sink. Errors: `Corrupt` where the file ends before it.
pub fn fetch(ftp: &Ftp, call: &Call, path: &TargetPath, range: Range, sink: &dyn Sink) -> Result<()> {
    if range.length == 0 {
        return Ok(());
    }
    let mut left = range.length;
    // What the sink says is not the server's fault.
    let mut refused = None;
    ftp.shared.on(call, "read", &shown(path), |session| {
        let command = format!("RETR {}", below(&session.root, path));
        let mut transfer = session.transfer(&ftp.shared, &command, range.offset)?;
        let mut buffer = vec![0; PIECE];
        while left > 0 {
            let want = left.min(PIECE as u64) as usize;
            let read = match transfer.read(&mut buffer[..want]) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => {
                    session.abandon(transfer);
                    return Err(error.into());
                }
            };
            if let Err(error) = sink.write(&buffer[..read]) {
                refused = Some(error);
                session.break_off(transfer);
                return Ok(());
            }
            left -= read as u64;
        }
        if left > 0 {
            return session.finish(transfer);
        }
        session.end_download(transfer);
        Ok(())
    })?;
    if let Some(error) = refused {
        return Err(error);
    }
    if left > 0 {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{} ends {left} bytes before it should", shown(path)),
        ));
    }
    Ok(())
}

pub fn digest(
    ftp: &Ftp,
    call: &Call,
    object: &Object,
    algorithm: &str,
    range: Option<Range>,
) -> Result<Digest> {
    let staged = matches!(object, Object::Staged(_));
    let path = match object {
        Object::Path(path) => path.clone(),
        Object::Staged(token) => StagingToken::parse(token)?.path,
    };
    let what = shown(&path);
    let found = ftp.shared.on(call, "compute a digest of", &what, |session| {
        let command = session.features.digests.iter().find(|(known, _)| known == algorithm);
        let Some((_, by)) = command.cloned().filter(|_| range.is_none()) else { return Ok(None) };
        if look(session, &path)?.is_none_or(|facts| facts.kind != EntryKind::File) {
            return Ok(Some(None));
        }
        let at = below(&session.root, &path);
        let command = match by {
            DigestBy::Hash(name) => {
                session.done(&format!("OPTS HASH {name}"))?;
                format!("HASH {at}")
            }
            // Offsets could follow: what holds a space is quoted.
            DigestBy::Command(command) if at.contains(' ') => format!("{command} \"{at}\""),
            DigestBy::Command(command) => format!("{command} {at}"),
        };
        session.patience(PATIENCE);
        let reply = session.done(&command);
        session.patience(ftp.shared.config.timeout);
        let reply = reply?;
        let length = match algorithm {
            "md5" => 16,
            "sha1" => 20,
            "sha256" => 32,
            _ => 64,
        };
        let value = hexadecimal(reply.rest(), length);
        value.map(|value| Some(Some(value))).ok_or_else(|| Fault::Nonsense("the digest is none".to_owned()))
    })?;
    match found {
        Some(Some(value)) => Ok(Digest { algorithm: algorithm.to_owned(), value }),
        Some(None) if staged => Err(stale(&path, "is not staged any more")),
        Some(None) => Err(not_found(&path)),
        None => Err(Error::unsupported(&format!("the digest {algorithm} (of a range: {})", range.is_some()))),
    }
}

/// The word of the reply that is a digest of this length.
fn hexadecimal(reply: &[u8], length: usize) -> Option<Vec<u8>> {
    let word = reply
        .split(u8::is_ascii_whitespace)
        .find(|word| word.len() == 2 * length && word.iter().all(u8::is_ascii_hexdigit))?;
    let digits: Vec<u8> = word.iter().filter_map(|b| char::from(*b).to_digit(16)).map(|d| d as u8).collect();
    Some(digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_found_among_other_words() {
        let value = hexadecimal(b"MD5 0-4 d41d8cd98f00b204e9800998ecf8427e d41d8 name", 16).unwrap();
        assert_eq!((value.len(), value[0], value[15]), (16, 0xd4, 0x7e));
        assert!(hexadecimal(b"d41d8cd9 name", 16).is_none());
    }
}
