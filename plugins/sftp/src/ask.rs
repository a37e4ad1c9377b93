//! Answers by their type, and the questions about the server itself: its file systems, a command.

use std::io::{ErrorKind as Io, Read};
use std::time::Instant;

use offsite_plugin_api::{Error, ErrorKind, Result, TargetPath};

use super::error::{OK, status};
use super::link::{Link, Watch, drive, wait};
use super::wire::{Attrs, In, Out, Reply, malformed};

impl Link {
    pub fn done(&mut self, watch: &dyn Watch, id: u32, act: &str, path: &TargetPath) -> Result<()> {
        match self.answer(watch, id)? {
            Reply::Status(OK, _) => Ok(()),
            Reply::Status(code, words) => Err(status(act, path, code, &words)),
            _ => Err(self.confused()),
        }
    }

    pub fn attrs(&mut self, watch: &dyn Watch, id: u32, act: &str, path: &TargetPath) -> Result<Attrs> {
        match self.answer(watch, id)? {
            Reply::Attrs(attrs) => Ok(attrs),
            Reply::Status(code, words) => Err(status(act, path, code, &words)),
            _ => Err(self.confused()),
        }
    }

    pub fn handle(&mut self, watch: &dyn Watch, id: u32, act: &str, path: &TargetPath) -> Result<Vec<u8>> {
        match self.answer(watch, id)? {
            Reply::Handle(handle) => Ok(handle),
            Reply::Status(code, words) => Err(status(act, path, code, &words)),
            _ => Err(self.confused()),
        }
    }

    pub fn confused(&mut self) -> Error {
        self.broken = true;
        malformed("an answer of the wrong type")
    }

    /// Another channel beside SFTP's, for a command: its output (at most `most` bytes) and exit status.
    pub fn command(&mut self, watch: &dyn Watch, command: &str, most: usize) -> Result<(Vec<u8>, i32)> {
        const WHAT: &str = "cannot run the command on the server";
        let (session, tcp) = (&self.session, &self.tcp);
        let result = (|| {
            let mut channel = drive(session, tcp, watch, WHAT, || session.channel_session())?;
            // What it complains of comes with its output; left unread, it would hide the end.
            drive(session, tcp, watch, WHAT, || channel.handle_extended_data(ssh2::ExtendedData::Merge))?;
            drive(session, tcp, watch, WHAT, || channel.exec(command))?;
            let mut output = Vec::new();
            let mut buffer = [0; 4096];
            // A large file takes its time: silence is no failure here, the call's own time counts.
            while !channel.eof() {
                match channel.read(&mut buffer) {
                    Ok(n) => output.extend_from_slice(&buffer[..n.min(most.saturating_sub(output.len()))]),
                    Err(e) if e.kind() == Io::WouldBlock => {
                        wait(session, tcp, watch, WHAT, &mut Instant::now())?;
                    }
                    Err(e) => {
                        return Err(Error::new(ErrorKind::Interrupted, WHAT).with_source(e.to_string()));
                    }
                }
            }
            drive(session, tcp, watch, WHAT, || channel.close())?;
            drive(session, tcp, watch, WHAT, || channel.wait_close())?;
            Ok((output, channel.exit_status().unwrap_or(-1)))
        })();
        self.broken |= result.is_err();
        result
    }

    /// Why a plain `failure`: OpenSSH says it of a full disk and of a read-only file system.
    pub fn why(&mut self, watch: &dyn Watch, error: Error, dir: &[u8]) -> Error {
        if *error.kind() != ErrorKind::Other || self.broken {
            return error;
        }
        let Ok(Some(space)) = self.space(watch, dir) else { return error };
        let again = |kind, hint: &str| {
            let words = error.source_text().unwrap_or_default().to_owned();
            Error::new(kind, error.message().to_owned()).with_context("hint", hint).with_source(words)
        };
        if space.read_only {
            return again(
                ErrorKind::ReadOnly,
                "the file system on the server is read-only; a disk error can cause that",
            );
        }
        if space.free < 1 << 20 || space.inodes == Some(0) {
            return again(
                ErrorKind::NoSpace,
                "the disk of the server is full: free space or choose another target",
            );
        }
        error
    }

    /// The file system that holds `path`; `None` where the server does not tell.
    pub fn space(&mut self, watch: &dyn Watch, path: &[u8]) -> Result<Option<FileSystem>> {
        if !self.features.statvfs {
            return Ok(None);
        }
        let id = self.ask_space(watch, path)?;
        self.space_of(watch, id)
    }

    pub fn ask_space(&mut self, watch: &dyn Watch, path: &[u8]) -> Result<u32> {
        self.extended(watch, b"statvfs@openssh.com", Out::default().bytes(path))
    }

    pub fn space_of(&mut self, watch: &dyn Watch, id: u32) -> Result<Option<FileSystem>> {
        let Reply::Extended(body) = self.answer(watch, id)? else { return Ok(None) };
        let mut body = In(&body);
        let mut field = || body.u64();
        let (_block, unit, blocks, _free, available) = (field()?, field()?, field()?, field()?, field()?);
        let (files, _files_free, files_available) = (field()?, field()?, field()?);
        let (_id, flags, longest) = (field()?, field()?, field()?);
        Ok(Some(FileSystem {
            total: blocks.saturating_mul(unit),
            free: available.saturating_mul(unit),
            // File systems without a table of files say zero of both.
            inodes: (files > 0).then_some(files_available),
            read_only: flags & 1 != 0,
            longest_name: u32::try_from(longest).unwrap_or(u32::MAX),
        }))
    }
}

/// `statvfs@openssh.com`.
#[derive(Clone, Copy, Debug)]
pub struct FileSystem {
    pub total: u64,
    pub free: u64,
    /// Files that can still be made.
    pub inodes: Option<u64>,
    pub read_only: bool,
    pub longest_name: u32,
}
