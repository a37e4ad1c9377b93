//! A digest computed by a command on the server: off unless the option names one.
//!
//! The file comes on the command's standard input, so that no name can be taken for an argument or come back changed.

use std::cell::Cell;
use std::time::{Duration, Instant};

use offsite_plugin_api::{Call, Digest, Error, ErrorKind, Object, Range, Result};

use super::client::Sftp;
use super::error::{shown, stale};
use super::link::Watch;
use super::wire::plain;
use super::write::StagingToken;

/// Bytes of output kept.
const MOST: usize = 4096;

pub fn digest(
    sftp: &Sftp,
    call: &Call,
    object: &Object,
    algorithm: &str,
    range: Option<Range>,
) -> Result<Digest> {
    let Some(digest) = sftp.config.digest.as_ref().filter(|d| d.algorithm == algorithm && range.is_none())
    else {
        return Err(Error::unsupported(&format!("the digest {algorithm} (of a range: {})", range.is_some())));
    };
    let staged = matches!(object, Object::Staged(_));
    let path = match object {
        Object::Path(path) => path.clone(),
        Object::Staged(token) => StagingToken::parse(token)?.path,
    };
    let mut link = sftp.lease(call)?;
    match sftp.look(&mut link, call, &path)? {
        Some(attrs) if attrs.is_file() => {}
        None if staged => return Err(stale(&path, "is not staged any more")),
        _ => return Err(Error::new(ErrorKind::NotFound, format!("there is no file {}", shown(&path)))),
    }
    let at = sftp.at(&path);
    let command = [digest.command.as_bytes(), b" < ", &quoted(&at)[..]].concat();
    let command = String::from_utf8(command)
        .map_err(|_| Error::unsupported("digests by a command of names that are not UTF-8"))?;
    let watch = Busy { call, told: Cell::new(Instant::now()), note: "the server computes a digest" };
    let (output, status) = link.command(&watch, &command, MOST)?;
    parse(&output, digest.length).filter(|_| status == 0).map_or_else(
        || {
            Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the command '{}' on the server gave no digest (exit status {status})",
                    digest.command
                ),
            )
            .with_context(
                "hint",
                "check that the command is installed there and that the account may run commands",
            )
            .with_source(plain(&output)))
        },
        |value| Ok(Digest { algorithm: digest.algorithm.to_owned(), value }),
    )
}

/// For the server's shell (POSIX 2.2.2): nothing within single quotes means anything.
fn quoted(path: &[u8]) -> Vec<u8> {
    let mut out = vec![b'\''];
    for &byte in path {
        if byte == b'\'' {
            out.extend_from_slice(br"'\''");
        } else {
            out.push(byte);
        }
    }
    out.push(b'\'');
    out
}

fn parse(output: &[u8], length: usize) -> Option<Vec<u8>> {
    let word = output.split(|b| b.is_ascii_whitespace()).next()?;
    if word.len() != length * 2 {
        return None;
    }
    let digit = |b: u8| char::from(b).to_digit(16);
    word.chunks(2).map(|pair| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8)).collect()
}

/// Tells the host now and then that the server is at work.
pub struct Busy<'a> {
    pub call: &'a Call,
    pub told: Cell<Instant>,
    pub note: &'static str,
}

impl Watch for Busy<'_> {
    fn proceed(&self) -> Result<()> {
        if self.told.get().elapsed() > Duration::from_secs(5) {
            self.call.alive(self.note);
            self.told.set(Instant::now());
        }
        self.call.proceed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        assert_eq!(quoted(b"/a b'; rm -rf $x`"), br"'/a b'\''; rm -rf $x`'");
    }

    #[test]
    fn only_a_whole_digest_counts() {
        assert_eq!(parse(b"00ff  -\n", 2), Some(vec![0, 255]));
        for wrong in [&b""[..], b"00f -", b"00ff00 -", b"zzzz -"] {
            assert_eq!(parse(wrong, 2), None);
        }
    }
}
