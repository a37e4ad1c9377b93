//! The packets of SFTP version 3 (draft-ietf-secsh-filexfer-02): bytes in, bytes out, no I/O.
//!
//! libssh2 carries the channel; its own SFTP layer is not used, because it waits for one acknowledgement at a time and
//! offers neither `posix-rename@openssh.com` nor `statvfs@openssh.com` nor `limits@openssh.com`. Everything a server
//! sends is untrusted: each length is checked against what is there.

use offsite_plugin_api::{Error, ErrorKind, Result};

pub const INIT: u8 = 1;
pub const VERSION: u8 = 2;
pub const OPEN: u8 = 3;
pub const CLOSE: u8 = 4;
pub const READ: u8 = 5;
pub const WRITE: u8 = 6;
pub const LSTAT: u8 = 7;
pub const FSTAT: u8 = 8;
pub const SETSTAT: u8 = 9;
pub const FSETSTAT: u8 = 10;
pub const OPENDIR: u8 = 11;
pub const READDIR: u8 = 12;
pub const REMOVE: u8 = 13;
pub const MKDIR: u8 = 14;
pub const RMDIR: u8 = 15;
pub const RENAME: u8 = 18;
pub const STATUS: u8 = 101;
pub const HANDLE: u8 = 102;
pub const DATA: u8 = 103;
pub const NAME: u8 = 104;
pub const ATTRS: u8 = 105;
pub const EXTENDED: u8 = 200;
pub const EXTENDED_REPLY: u8 = 201;

pub const OPEN_READ: u32 = 1;
pub const OPEN_WRITE: u32 = 2;
pub const OPEN_CREATE: u32 = 8;
pub const OPEN_TRUNCATE: u32 = 0x10;
pub const OPEN_EXCLUSIVE: u32 = 0x20;

const ATTR_SIZE: u32 = 1;
const ATTR_OWNER: u32 = 2;
const ATTR_MODE: u32 = 4;
const ATTR_TIMES: u32 = 8;
const ATTR_EXTENDED: u32 = 0x8000_0000;

/// Longest handle (section 6.2).
const LONGEST_HANDLE: usize = 256;

/// A request or a part of one.
#[derive(Default)]
pub struct Out(pub Vec<u8>);

impl Out {
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn bytes(mut self, value: &[u8]) -> Self {
        self = self.u32(value.len() as u32);
        self.0.extend_from_slice(value);
        self
    }

    pub fn attrs(mut self, attrs: &SetAttrs) -> Self {
        let size = if attrs.size.is_some() { ATTR_SIZE } else { 0 };
        let times = if attrs.mtime.is_some() { ATTR_TIMES } else { 0 };
        self = self.u32(size | times);
        if let Some(size) = attrs.size {
            self = self.u64(size);
        }
        if let Some(mtime) = attrs.mtime {
            // There is no way to set one of the two alone.
            self = self.u32(mtime).u32(mtime);
        }
        self
    }
}

/// What a request may set.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttrs {
    pub size: Option<u64>,
    /// Seconds since the epoch.
    pub mtime: Option<u32>,
}

/// Attributes as a server gives them; each may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attrs {
    pub size: Option<u64>,
    pub mode: Option<u32>,
    /// Seconds since the epoch.
    pub mtime: Option<u32>,
}

impl Attrs {
    const TYPE: u32 = 0o170_000;

    pub fn is_file(&self) -> bool {
        self.mode.is_some_and(|m| m & Self::TYPE == 0o100_000)
    }

    pub fn is_dir(&self) -> bool {
        self.mode.is_some_and(|m| m & Self::TYPE == 0o040_000)
    }
}

/// Reads a packet's fields in order.
pub struct In<'a>(pub &'a [u8]);

impl<'a> In<'a> {
    pub fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        if length > self.0.len() {
            return Err(malformed("a packet ends too early"));
        }
        let (head, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(head)
    }

    pub fn u32(&mut self) -> Result<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from(self.u32()?) << 32 | u64::from(self.u32()?))
    }

    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub fn attrs(&mut self) -> Result<Attrs> {
        let flags = self.u32()?;
        let mut attrs = Attrs::default();
        if flags & ATTR_SIZE != 0 {
            attrs.size = Some(self.u64()?);
        }
        if flags & ATTR_OWNER != 0 {
            self.u64()?;
        }
        if flags & ATTR_MODE != 0 {
            attrs.mode = Some(self.u32()?);
        }
        if flags & ATTR_TIMES != 0 {
            self.u32()?;
            attrs.mtime = Some(self.u32()?);
        }
        if flags & ATTR_EXTENDED != 0 {
            for _ in 0..self.u32()?.min(1024) {
                self.bytes()?;
                self.bytes()?;
            }
        }
        Ok(attrs)
    }
}

/// One answer, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// Code and the server's words, bounded and without control characters.
    Status(u32, String),
    Handle(Vec<u8>),
    Data(Vec<u8>),
    /// Name and attributes; the long form is not read.
    Names(Vec<(Vec<u8>, Attrs)>),
    Attrs(Attrs),
    Extended(Vec<u8>),
}

/// A packet without its length: the id of the request it answers, and the answer.
pub fn reply(packet: &[u8]) -> Result<(u32, Reply)> {
    let mut body = In(packet);
    let kind = body.take(1)?[0];
    let id = body.u32()?;
    let reply = match kind {
        STATUS => {
            let code = body.u32()?;
            // The first drafts had no text.
            Reply::Status(code, plain(body.bytes().unwrap_or_default()))
        }
        HANDLE => {
            let handle = body.bytes()?;
            if handle.len() > LONGEST_HANDLE {
                return Err(malformed("a handle is too long"));
            }
            Reply::Handle(handle.to_vec())
        }
        DATA => Reply::Data(body.bytes()?.to_vec()),
        NAME => {
            let count = body.u32()? as usize;
            // Each takes at least twelve bytes.
            let mut names = Vec::with_capacity(count.min(body.0.len() / 12));
            for _ in 0..count {
                let name = body.bytes()?.to_vec();
                body.bytes()?;
                names.push((name, body.attrs()?));
            }
            Reply::Names(names)
        }
        ATTRS => Reply::Attrs(body.attrs()?),
        EXTENDED_REPLY => Reply::Extended(body.0.to_vec()),
        other => return Err(malformed(&format!("a packet of type {other} is no answer"))),
    };
    Ok((id, reply))
}

/// Words from a server, fit to be shown: bounded, one line, nothing that steers a terminal.
pub fn plain(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(400)]);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    text.trim().to_owned()
}

/// The server broke the protocol: the connection is of no use any more.
pub fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::Interrupted, "the server's answer is not SFTP")
        .with_context(
            "hint",
            "something else than an SFTP server may answer there, or a login script prints text",
        )
        .with_source(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_lie_are_refused() {
        let lying = Out(vec![DATA]).u32(7).u32(1000);
        assert!(reply(&lying.0).is_err());
        let names = Out(vec![NAME]).u32(7).u32(u32::MAX);
        assert!(reply(&names.0).is_err());
        let handle = Out(vec![HANDLE]).u32(7).bytes(&[0; 300]);
        assert!(reply(&handle.0).is_err());
        assert!(reply(&[]).is_err() && reply(&[STATUS, 0, 0]).is_err());
    }

    #[test]
    fn attributes_come_back_with_what_the_flags_say() {
        let packet =
            Out(vec![ATTRS]).u32(9).u32(0x8000_000f).u64(5).u64(0).u32(0o100_644).u32(1).u32(2).u32(1);
        let packet = packet.bytes(b"a@b").bytes(b"x");
        let (id, Reply::Attrs(attrs)) = reply(&packet.0).unwrap() else { panic!() };
        assert_eq!((id, attrs), (9, Attrs { size: Some(5), mode: Some(0o100_644), mtime: Some(2) }));
        assert!(attrs.is_file() && !attrs.is_dir());
    }

    #[test]
    fn a_servers_words_are_bounded_and_harmless() {
        assert_eq!(plain(b"\x1b[2Jdisk\r\nfull "), "[2Jdisk  full");
        assert_eq!(plain(&[b'x'; 5000]).len(), 200);
    }
}
