//! As much of HTTP/1.1 as the harness needs on the loopback: one request a connection, answers with a length, chunked or
//! ended by the connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The start line and headers of a request or an answer, header names in lower case.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub start: String,
    pub headers: Vec<(String, String)>,
    /// As it came, with the empty line at its end.
    pub raw: Vec<u8>,
}

impl Head {
    /// Reads up to the empty line; `None` at the end of the connection. At most 64 KiB.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut head = Self::default();
        loop {
            let start = head.raw.len();
            if from.take(65_536).read_until(b'\n', &mut head.raw)? == 0 || head.raw.len() > 65_536 {
                return if start == 0 { Ok(None) } else { Err(io::ErrorKind::InvalidData.into()) };
            }
            let line = String::from_utf8_lossy(&head.raw[start..]).trim_end().to_owned();
            if start == 0 {
                head.start = line;
            } else if line.is_empty() {
                return Ok(Some(head));
            } else if let Some((name, value)) = line.split_once(':') {
                head.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// The number of an answer's status.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
    }
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
}

/// One request on a connection of its own. `path`: escaped, with its query.
pub fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> io::Result<Answer> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_nodelay(true)?;
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += &format!("Content-Length: {}\r\n\r\n", body.len());
    (&stream).write_all(&[text.as_bytes(), body].concat())?;
    let mut from = BufReader::with_capacity(1 << 16, stream);
    let mut head = Head::read(&mut from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    while head.status() == 100 {
        head = Head::read(&mut from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    }
    let mut body = Vec::new();
    if method == "HEAD" {
    } else if head.header("transfer-encoding").is_some_and(|v| v.contains("chunked")) {
        read_chunks(&mut from, &mut body)?;
    } else if let Some(length) = head.length() {
        body.resize(length as usize, 0);
        from.read_exact(&mut body)?;
    } else {
        from.read_to_end(&mut body)?;
    }
    Ok(Answer { head, body })
}

fn read_chunks(from: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let size = line.split(';').next().unwrap_or("").trim();
        let size =
            usize::from_str_radix(size, 16).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let start = body.len();
        body.resize(start + size, 0);
        from.read_exact(&mut body[start..])?;
        line.clear();
        from.read_line(&mut line)?;
        if size == 0 {
            return Ok(());
        }
    }
}

/// Escapes everything but unreserved characters (and `/`, if kept), as S3 signs it.
pub fn escape(text: &[u8], keep_slash: bool) -> String {
    let mut out = String::new();
    for &b in text {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(b as char),
            b'/' if keep_slash => out.push('/'),
            _ => out += &format!("%{b:02X}"),
        }
    }
    out
}

/// Undoes [`escape`]; what is not an escape stays.
pub fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match hex.filter(|_| bytes[at] == b'%').and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    out
}
