//! Looking at one object and reading it.
//!
//! The version of an object is its ETag: the server's, opaque, the same in listings and answers. It is taken for no digest.

use std::collections::HashMap;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use offsite_plugin_api::{
    Call, Entry, Error, ErrorKind, Expect, Range, Result, Retention, Sink, TargetPath, Timestamp,
};

use super::client::{S3, SHORT};
use super::write::{MTIME, NONCE};
use super::{body, error, list};

/// What HeadObject tells.
pub struct Head {
    pub answer: HeadObjectOutput,
    pub size: u64,
}

impl Head {
    pub fn metadata(&self) -> Option<&HashMap<String, String>> {
        self.answer.metadata()
    }

    pub fn nonce(&self) -> Option<&String> {
        self.metadata()?.get(NONCE)
    }

    pub fn version(&self) -> Option<String> {
        self.answer.e_tag().map(unquoted)
    }

    pub fn retention(&self) -> Option<Retention> {
        let until = self.answer.object_lock_retain_until_date()?.secs();
        let mode = self.answer.object_lock_mode().map(|m| m.as_str().to_owned())?;
        Some(Retention { mode, until })
    }

    pub fn entry(&self, path: &TargetPath) -> Entry {
        let mut entry = Entry::file(path.clone(), self.size);
        entry.mtime = precise(self.metadata().and_then(|m| m.get(MTIME)).and_then(|t| mtime_ns(t)));
        entry.version = self.version();
        entry.retention = self.retention();
        entry.class = shown_class(self.answer.storage_class().map(|c| c.as_str()));
        entry
    }
}

pub fn unquoted(tag: &str) -> String {
    tag.trim_matches('"').to_owned()
}

pub fn quoted(version: &str) -> String {
    format!("\"{version}\"")
}

/// The usual class is not worth a word; some answers leave it out.
pub fn shown_class(class: Option<&str>) -> Option<String> {
    class.filter(|c| *c != "STANDARD").map(str::to_owned)
}

pub fn precise(ns: Option<i64>) -> Option<Timestamp> {
    ns.map(|ns| Timestamp { ns, precision_ns: 1 })
}

/// Seconds since the Unix epoch, as rclone writes them.
pub fn mtime_text(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    format!("{sign}{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

fn mtime_ns(text: &str) -> Option<i64> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |t| (true, t));
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if seconds.is_empty() || !digits(seconds) || !digits(fraction) {
        return None;
    }
    let fraction: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let ns = seconds.parse::<i64>().ok()?.checked_mul(1_000_000_000)?.checked_add(fraction.parse().ok()?)?;
    Some(if negative { -ns } else { ns })
}

/// The object of that name; `None` where there is none.
pub fn head(s3: &S3, call: &Call, path: &TargetPath) -> Result<Option<Head>> {
    let key = s3.key(path)?;
    head_of_key(s3, call, path, &key)
}

pub fn head_of_key(s3: &S3, call: &Call, path: &TargetPath, key: &str) -> Result<Option<Head>> {
    let answer = s3.wait(
        call,
        SHORT,
        s3.request("look at", path, |c| c.client.head_object().bucket(&s3.config.bucket).key(key).send()),
    );
    match answer {
        Ok(answer) => {
            let size = match answer.content_length() {
                Some(size) => size,
                // Some proxies drop the length of an answer without a body.
                None => listed_size(s3, call, path, key)?,
            };
            Ok(Some(Head { answer, size: size.max(0) as u64 }))
        }
        Err(error) if *error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn listed_size(s3: &S3, call: &Call, path: &TargetPath, key: &str) -> Result<i64> {
    let listing = s3.wait(
        call,
        SHORT,
        s3.request("look at", path, |c| {
            c.client.list_objects_v2().bucket(&s3.config.bucket).prefix(key).max_keys(1).send()
        }),
    )?;
    // The key itself comes before all that it begins.
    let object = listing.contents().first().filter(|object| object.key() == Some(key));
    object.and_then(|object| object.size()).ok_or_else(|| {
        let message = format!("the server does not tell the size of {}", super::error::shown(path));
        Error::new(ErrorKind::Unsupported, message)
    })
}

/// What has the name is what `expect` says.
pub fn expect(path: &TargetPath, head: Option<&Head>, expect: &Expect) -> Result<()> {
    match (expect, head) {
        (Expect::Any, _) | (Expect::Absent, None) => Ok(()),
        (Expect::Absent, Some(_)) => Err(error::exists(path)),
        (Expect::Version(wanted), Some(head)) if head.version().as_ref() == Some(wanted) => Ok(()),
        (Expect::Version(_), found) => Err(error::changed(path, found.is_none())),
    }
}

pub fn stat(s3: &S3, call: &Call, path: &TargetPath) -> Result<Entry> {
    if path.is_root() {
        return Ok(Entry::dir(path.clone()));
    }
    if let Some(head) = head(s3, call, path)? {
        return Ok(head.entry(path));
    }
    if list::any_below(s3, call, path)? {
        return Ok(Entry::dir(path.clone()));
    }
    Err(not_found(path))
}

pub fn not_found(path: &TargetPath) -> Error {
    Error::new(ErrorKind::NotFound, format!("{} is not there", error::shown(path)))
}

pub fn get(
    s3: &S3,
    call: &Call,
    path: &TargetPath,
    range: Option<Range>,
    if_version: Option<&str>,
    sink: &dyn Sink,
) -> Result<()> {
    if range.is_some_and(|r| r.length == 0) {
        return Ok(());
    }
    let key = s3.key(path)?;
    let wanted = range.map(|r| format!("bytes={}-{}", r.offset, r.end() - 1));
    let answer = s3.wait(
        call,
        SHORT,
        s3.request("read", path, |c| {
            c.client
                .get_object()
                .bucket(&s3.config.bucket)
                .key(&key)
                .set_range(wanted.clone())
                .set_if_match(if_version.map(quoted))
                .send()
        }),
    )?;
    if let Some(version) = if_version
        && answer.e_tag().map(unquoted).as_deref() != Some(version)
    {
        return Err(error::changed(path, false));
    }
    let mut stream = answer.body;
    loop {
        let next = s3.wait(call, SHORT, async {
            stream.next().await.transpose().map_err(|e| {
                Error::new(ErrorKind::Interrupted, format!("reading {} broke off", error::shown(path)))
                    .with_source(e.to_string())
            })
        })?;
        let Some(piece) = next else { return Ok(()) };
        for part in piece.chunks(body::PIECE as usize) {
            call.proceed()?;
            sink.write(part)?;
        }
        call.alive("reading");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rclone_reads_them() {
        for (ns, text) in [
            (1_500_000_000_123_456_789, "1500000000.123456789"),
            (5, "0.000000005"),
            (-1_500_000_000, "-1.500000000"),
        ] {
            assert_eq!(mtime_text(ns), text);
            assert_eq!(mtime_ns(text), Some(ns));
        }
        assert_eq!(mtime_ns("1500000000.5"), Some(1_500_000_000_500_000_000));
        assert_eq!(mtime_ns("1500000000"), Some(1_500_000_000_000_000_000));
        for odd in ["", ".", "x", "1.2.3", "1e9", "99999999999999999999"] {
            assert_eq!(mtime_ns(odd), None, "{odd}");
        }
    }
}
