//! Deleting, copying, attributes.
//!
//! DeleteObject succeeds on what is not there, and in a bucket with versions only hides the object: so the name is looked at
//! first, and an object under a lock is not hidden but refused.

use aws_sdk_s3::types::{Delete, MetadataDirective, ObjectIdentifier};
use offsite_plugin_api::{Attributes, Call, Entry, Error, ErrorKind, Expect, Result, TargetPath};

use super::client::{LONG, S3, SHORT};
use super::read::{self, Head, not_found};
use super::uploads::now;
use super::write::{MTIME, set_lock};
use super::{error, list};

/// What DeleteObjects takes.
const BATCH: usize = 1000;
/// What CopyObject copies.
const LARGEST_COPY: u64 = 5 << 30;

pub fn delete(s3: &S3, call: &Call, path: &TargetPath, expect: &Expect) -> Result<()> {
    match may_delete(s3, call, path, expect)? {
        Some(key) => delete_key(s3, call, path, &key, expect),
        None => Err(not_found(path)),
    }
}

/// The key to delete; `None` where nothing has the name.
fn may_delete(s3: &S3, call: &Call, path: &TargetPath, expect: &Expect) -> Result<Option<String>> {
    if path.is_root() {
        return Err(Error::new(ErrorKind::Denied, "the target's own folder is never deleted"));
    }
    let Some(head) = read::head(s3, call, path)? else {
        return empty_dir(s3, call, path);
    };
    read::expect(path, Some(&head), expect)?;
    not_locked(path, &head)?;
    s3.key(path).map(Some)
}

fn not_locked(path: &TargetPath, head: &Head) -> Result<()> {
    match head.retention() {
        Some(lock) if lock.until > now() => Err(Error::new(
            ErrorKind::Retained,
            format!(
                "{} is locked ({}) for another {} h",
                error::shown(path),
                lock.mode,
                (lock.until - now()) / 3600
            ),
        )),
        _ => Ok(()),
    }
}

/// The marker of a directory that holds nothing else.
fn empty_dir(s3: &S3, call: &Call, path: &TargetPath) -> Result<Option<String>> {
    let below = list::first_below(s3, call, path, 2)?;
    if below.is_empty() {
        return Ok(None);
    }
    if list::is_marker(s3, path, &below)? {
        return s3.prefix_of(path).map(Some);
    }
    Err(Error::new(
        ErrorKind::PreconditionFailed,
        format!("the directory {} is not empty", error::shown(path)),
    ))
}

fn delete_key(s3: &S3, call: &Call, path: &TargetPath, key: &str, expect: &Expect) -> Result<()> {
    let deleted = s3.wait(
        call,
        SHORT,
        s3.request("delete", path, |c| {
            let matches = match expect {
                Expect::Version(version) if c.service.conditional_delete => Some(read::quoted(version)),
                _ => None,
            };
            c.client.delete_object().bucket(&s3.config.bucket).key(key).set_if_match(matches).send()
        }),
    );
    match deleted {
        Ok(_) => Ok(()),
        Err(e) if *e.kind() == ErrorKind::PreconditionFailed => Err(error::changed(path, false)),
        Err(e) => Err(e),
    }
}

pub fn delete_batch(s3: &S3, call: &Call, items: &[(TargetPath, Expect)]) -> Result<Vec<Result<()>>> {
    let connection = s3.wait(call, SHORT, s3.connection())?;
    let mut results: Vec<Option<Result<()>>> = items.iter().map(|_| None).collect();
    // What XML cannot name, and what needs a condition of its own, goes alone.
    let together = |path: &TargetPath, expect: &Expect| {
        connection.service.batch_delete && *expect == Expect::Any && plain(path)
    };
    let mut batch: Vec<(usize, String)> = Vec::new();
    for (index, (path, expect)) in items.iter().enumerate() {
        call.proceed()?;
        if !together(path, expect) {
            results[index] = Some(delete(s3, call, path, expect));
            continue;
        }
        match may_delete(s3, call, path, expect) {
            Ok(Some(key)) => batch.push((index, key)),
            Ok(None) => results[index] = Some(Err(not_found(path))),
            Err(error) => results[index] = Some(Err(error)),
        }
        if batch.len() == BATCH {
            delete_together(s3, call, items, &std::mem::take(&mut batch), &mut results);
        }
    }
    delete_together(s3, call, items, &batch, &mut results);
    let lost =
        || Err(Error::new(ErrorKind::Interrupted, "the server did not say what became of the deletion"));
    Ok(results.into_iter().map(|r| r.unwrap_or_else(lost)).collect())
}

fn plain(path: &TargetPath) -> bool {
    std::str::from_utf8(path.as_bytes())
        .is_ok_and(|t| !t.chars().any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')))
}

fn delete_together(
    s3: &S3,
    call: &Call,
    items: &[(TargetPath, Expect)],
    batch: &[(usize, String)],
    results: &mut [Option<Result<()>>],
) {
    if batch.is_empty() {
        return;
    }
    let objects: Vec<ObjectIdentifier> = batch
        .iter()
        .map(|(_, key)| ObjectIdentifier::builder().key(key).build().expect("a key was given"))
        .collect();
    let answer = s3.wait(
        call,
        SHORT,
        s3.request("delete below", &TargetPath::root(), |c| {
            let delete =
                Delete::builder().set_objects(Some(objects.clone())).build().expect("objects were given");
            c.client.delete_objects().bucket(&s3.config.bucket).delete(delete).send()
        }),
    );
    for (index, key) in batch {
        results[*index] = Some(match &answer {
            Err(error) => Err(error.clone()),
            Ok(answer) => match answer.errors().iter().find(|e| e.key() == Some(key.as_str())) {
                None => Ok(()),
                Some(refused) => Err(error::told(
                    "delete",
                    &items[*index].0,
                    refused.code().unwrap_or_default(),
                    refused.message().unwrap_or_default(),
                )),
            },
        });
    }
}

/// Where the server copies from, as the header wants it.
fn copy_source(s3: &S3, key: &str) -> String {
    const PLAIN: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    format!("{}/{}", s3.config.bucket, percent_encoding::utf8_percent_encode(key, PLAIN))
}

fn too_large(path: &TargetPath) -> Error {
    let message = format!("{} is larger than the 5 GiB that S3 copies in one act", error::shown(path));
    Error::new(ErrorKind::Unsupported, message)
}

pub fn copy(s3: &S3, call: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
    let source = read::head(s3, call, from)?.ok_or_else(|| not_found(from))?;
    if source.size > LARGEST_COPY {
        return Err(too_large(from));
    }
    let there = read::head(s3, call, to)?;
    read::expect(to, there.as_ref(), expect)?;
    let (key, from_key) = (s3.key(to)?, s3.key(from)?);
    s3.wait(
        call,
        LONG,
        s3.request("copy", from, |c| {
            c.client
                .copy_object()
                .bucket(&s3.config.bucket)
                .key(&key)
                .copy_source(copy_source(s3, &from_key))
                .set_copy_source_if_match(source.version().as_deref().map(read::quoted))
                .send()
        }),
    )?;
    read::head(s3, call, to)?.map(|h| h.entry(to)).ok_or_else(|| not_found(to))
}

pub fn set_attributes(s3: &S3, call: &Call, path: &TargetPath, attributes: &Attributes) -> Result<Entry> {
    let head = read::head(s3, call, path)?.ok_or_else(|| not_found(path))?;
    if let Some(mtime) = attributes.mtime {
        set_mtime(s3, call, path, &head, mtime.ns)?;
    }
    if let Some(retention) = &attributes.retention {
        set_lock(s3, call, path, retention)?;
    }
    read::head(s3, call, path)?.map(|h| h.entry(path)).ok_or_else(|| not_found(path))
}

/// Metadata cannot be changed, only written with the object: it is copied onto itself.
fn set_mtime(s3: &S3, call: &Call, path: &TargetPath, head: &Head, ns: i64) -> Result<()> {
    if head.size > LARGEST_COPY {
        return Err(too_large(path));
    }
    let key = s3.key(path)?;
    let mut metadata = head.metadata().cloned().unwrap_or_default();
    metadata.insert(MTIME.to_owned(), read::mtime_text(ns));
    s3.wait(
        call,
        LONG,
        s3.request("set the time of", path, |c| {
            c.client
                .copy_object()
                .bucket(&s3.config.bucket)
                .key(&key)
                .copy_source(copy_source(s3, &key))
                .set_copy_source_if_match(head.version().as_deref().map(read::quoted))
                .metadata_directive(MetadataDirective::Replace)
                .set_metadata(Some(metadata.clone()))
                .set_storage_class(head.answer.storage_class().cloned())
                .set_content_type(head.answer.content_type().map(str::to_owned))
                .send()
        }),
    )
    .map(drop)
}
