//! Publishing: one PutObject for a small object, CompleteMultipartUpload for a large one; both make it visible whole or not
//! at all. Also what is staged under a token, and dropping it.
//!
//! Every object carries its staging's nonce, so that a publish that is repeated, after an answer was lost too, is told
//! from a stranger's object under the same name. Where the server compares by itself (`If-None-Match`, `If-Match`), it is let;
//! elsewhere the name is looked at first, and the capability says so.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::types::{
    ChecksumType, CompletedMultipartUpload, CompletedPart, ObjectLockRetention, ObjectLockRetentionMode,
};
use aws_smithy_types::DateTime;
use offsite_plugin_api::{
    Attributes, Call, Entry, Error, ErrorKind, Expect, PublishRequest, Result, Retention, Retry, StagedInfo,
    Token,
};

use super::client::{LONG, S3, SHORT};
use super::connect::Connection;
use super::digest::{Algorithm, Value};
use super::read::{self, Head};
use super::stage::{self, class_for, lock_for, lock_mode};
use super::token::{Parts, Staging, stale};
use super::uploads::now;
use super::{body, error};

/// Metadata of every object: the staging's nonce, and the file's time as rclone writes it (seconds, with a fraction).
pub const NONCE: &str = "offsite-upload";
pub const MTIME: &str = "mtime";

pub fn metadata(nonce: &str, attributes: &Attributes) -> HashMap<String, String> {
    let mut metadata = HashMap::from([(NONCE.to_owned(), nonce.to_owned())]);
    if let Some(mtime) = attributes.mtime {
        metadata.insert(MTIME.to_owned(), read::mtime_text(mtime.ns));
    }
    metadata
}

pub fn stat_staged(s3: &S3, call: &Call, token: &Token) -> Result<StagedInfo> {
    let (staging, _) = Staging::parse(token)?;
    let info = |bytes| StagedInfo {
        token: token.clone(),
        path: Some(staging.path.clone()),
        owner: String::new(),
        bytes,
        age: None,
    };
    let Some(parts) = &staging.parts else {
        if s3.is_discarded(&staging.nonce) {
            return Err(stale(&staging.path, "was discarded"));
        }
        // Nothing of it is on the server but what its publish made.
        return match read::head(s3, call, &staging.path)? {
            Some(head) if head.nonce() == Some(&staging.nonce) => Err(stale(&staging.path, "is published")),
            _ => Ok(info(staging.size)),
        };
    };
    let held = stage::list_parts(s3, call, &staging.path, &parts.upload)?;
    Ok(info(held.iter().filter_map(|p| p.size()).map(|s| s.max(0) as u64).sum()))
}

pub fn discard(s3: &S3, call: &Call, token: &Token) -> Result<()> {
    let (staging, _) = Staging::parse(token)?;
    let Some(parts) = &staging.parts else {
        s3.discard_small(&staging.nonce);
        return Ok(());
    };
    let key = s3.key(&staging.path)?;
    let dropped = s3.wait(
        call,
        SHORT,
        s3.request("discard what is staged of", &staging.path, |c| {
            c.client
                .abort_multipart_upload()
                .bucket(&s3.config.bucket)
                .key(&key)
                .upload_id(&parts.upload)
                .send()
        }),
    );
    match dropped {
        Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::StaleToken) => return Err(e),
        _ => {}
    }
    s3.uploads.ended(&parts.upload)
}

pub fn publish(s3: &S3, call: &Call, request: &PublishRequest) -> Result<Entry> {
    let (staging, marks) = Staging::parse(&request.token)?;
    if staging.path != request.path {
        return Err(stale(&request.path, "was staged for another name"));
    }
    if staging.size != request.size {
        let message = format!(
            "{} was staged with {} bytes of {}",
            error::shown(&request.path),
            staging.size,
            request.size
        );
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    let connection = s3.wait(call, SHORT, s3.connection())?;
    if !connection.service.conditional_write
        && let Some(entry) = look_first(s3, call, request, &staging)?
    {
        return Ok(entry);
    }
    match &staging.parts {
        None => put(s3, call, request, &staging, &connection),
        Some(parts) => complete(s3, call, request, &staging, parts, &marks, &connection),
    }
}

/// For servers that do not compare: what has the name is what is expected. `Some`: the object is this staging's already.
fn look_first(s3: &S3, call: &Call, request: &PublishRequest, staging: &Staging) -> Result<Option<Entry>> {
    if request.expect == Expect::Any {
        return Ok(None);
    }
    let head = read::head(s3, call, &request.path)?;
    if let Some(head) = &head
        && head.nonce() == Some(&staging.nonce)
    {
        return locked(s3, call, request, head).map(Some);
    }
    read::expect(&request.path, head.as_ref(), &request.expect).map(|()| None)
}

fn if_none_match(connection: &Connection, expect: &Expect) -> Option<String> {
    (connection.service.conditional_write && *expect == Expect::Absent).then(|| "*".to_owned())
}

fn if_match(connection: &Connection, expect: &Expect) -> Option<String> {
    match expect {
        Expect::Version(version) if connection.service.conditional_write => Some(read::quoted(version)),
        _ => None,
    }
}

/// What a refused condition means for the name.
fn refused(request: &PublishRequest, error: Error) -> Error {
    match (&request.expect, error.kind()) {
        (Expect::Absent, ErrorKind::PreconditionFailed) => error::exists(&request.path),
        (Expect::Version(_), ErrorKind::PreconditionFailed) => error::changed(&request.path, false),
        (Expect::Version(_), ErrorKind::NotFound) => error::changed(&request.path, true),
        _ => error,
    }
}

/// Whether a failed publish may have succeeded all the same.
fn doubtful(error: &Error) -> bool {
    use ErrorKind::{
        Busy, Exists, Interrupted, NotFound, PreconditionFailed, SourceChanged, StaleToken, TimedOut,
    };
    matches!(
        error.kind(),
        Busy | Exists | Interrupted | NotFound | PreconditionFailed | SourceChanged | StaleToken | TimedOut
    )
}

/// After a failure: the entry if the object under the name is this staging's all the same, else the failure.
fn settle(s3: &S3, call: &Call, request: &PublishRequest, staging: &Staging, error: Error) -> Result<Entry> {
    if doubtful(&error)
        && let Ok(Some(head)) = read::head(s3, call, &staging.path)
        && head.nonce() == Some(&staging.nonce)
    {
        return locked(s3, call, request, &head);
    }
    Err(error)
}

/// The entry of the object that was published, locked as it should be.
fn locked(s3: &S3, call: &Call, request: &PublishRequest, head: &Head) -> Result<Entry> {
    let mut entry = head.entry(&request.path);
    if let Some(retention) = late_lock(s3, request, head) {
        set_lock(s3, call, &request.path, &retention)?;
        entry.retention = Some(retention);
    }
    Ok(entry)
}

fn put(
    s3: &S3,
    call: &Call,
    request: &PublishRequest,
    staging: &Staging,
    connection: &Connection,
) -> Result<Entry> {
    if s3.is_discarded(&staging.nonce) {
        return Err(stale(&staging.path, "was discarded"));
    }
    match send(s3, call, request, staging, connection) {
        Ok(entry) => Ok(entry),
        Err(error) => settle(s3, call, request, staging, refused(request, error)),
    }
}

fn send(
    s3: &S3,
    call: &Call,
    request: &PublishRequest,
    staging: &Staging,
    connection: &Connection,
) -> Result<Entry> {
    let algorithm = connection.algorithm(&s3.config);
    let (held, value) = stage::read_small(&*request.source, request.size, algorithm.start())?;
    same_content(request, &held)?;
    let retention = lock_for(s3, &request.path, &request.attributes);
    let class = class_for(s3, &request.attributes);
    let (stream, to) = body::channel(request.size);
    let put = connection
        .client
        .put_object()
        .bucket(&s3.config.bucket)
        .key(s3.new_key(&request.path, connection)?)
        .content_length(request.size as i64)
        .set_metadata(Some(metadata(&staging.nonce, &request.attributes)))
        .set_storage_class(class.clone())
        .set_object_lock_mode(retention.as_ref().map(lock_mode))
        .set_object_lock_retain_until_date(retention.as_ref().map(|r| DateTime::from_secs(r.until)))
        .set_if_none_match(if_none_match(connection, &request.expect))
        .set_if_match(if_match(connection, &request.expect))
        .body(stream);
    let mut put = headed(put, algorithm, &value);
    if s3.wants_md5(connection, algorithm) {
        put = put.content_md5(md5(&held).base64());
    }
    let put = put.customize().disable_payload_signing();
    let mut pieces = held.into_iter();
    let sent = body::send(s3.runtime(), call, &|| call.proceed(), put.send(), to, &mut || Ok(pieces.next()))?;
    let answer = match sent {
        Ok(answer) => answer,
        Err(failure) => {
            let healed = s3.wait(call, Duration::from_secs(15), async { Ok(s3.heal(&failure).await) })?;
            let error = error::failed("write", &request.path, &failure);
            return Err(if healed { error.with_retry(Retry::Now) } else { error });
        }
    };
    if answer.checksum_crc64_nvme().or(answer.checksum_crc32_c()) == Some(&value.base64()) {
        s3.checks.store(true, Ordering::Relaxed);
    }
    call.acked(request.size);
    let mut entry = Entry::file(request.path.clone(), request.size);
    entry.mtime = read::precise(request.attributes.mtime.map(|m| m.ns));
    entry.version = answer.e_tag().map(read::unquoted);
    entry.class = read::shown_class(class.as_ref().map(|c| c.as_str()));
    entry.retention = retention;
    Ok(entry)
}

fn headed(request: PutObjectFluentBuilder, algorithm: Algorithm, value: &Value) -> PutObjectFluentBuilder {
    match algorithm {
        Algorithm::Crc64Nvme => request.checksum_crc64_nvme(value.base64()),
        Algorithm::Crc32c => request.checksum_crc32_c(value.base64()),
        Algorithm::Md5 => request.content_md5(value.base64()),
    }
}

fn md5(held: &[bytes::Bytes]) -> Value {
    let mut running = Algorithm::Md5.start();
    held.iter().for_each(|piece| running.update(piece));
    running.finish()
}

/// What is read now is what the host hashed when it staged. Errors: `SourceChanged`.
fn same_content(request: &PublishRequest, held: &[bytes::Bytes]) -> Result<()> {
    let Some(digest) = request.digests.iter().find(|d| d.algorithm == "blake3") else { return Ok(()) };
    let mut hasher = blake3::Hasher::new();
    held.iter().for_each(|piece| {
        hasher.update(piece);
    });
    if hasher.finalize().as_bytes() == digest.value.as_slice() {
        return Ok(());
    }
    let message = format!("the source of {} changed after it was staged", error::shown(&request.path));
    Err(Error::new(ErrorKind::SourceChanged, message))
}

fn complete(
    s3: &S3,
    call: &Call,
    request: &PublishRequest,
    staging: &Staging,
    parts: &Parts,
    marks: &[u32],
    connection: &Connection,
) -> Result<Entry> {
    match complete_now(s3, call, request, staging, parts, marks, connection) {
        Ok(entry) => Ok(entry),
        Err(error) => {
            let entry = settle(s3, call, request, staging, refused(request, error))?;
            s3.uploads.ended(&parts.upload)?;
            Ok(entry)
        }
    }
}

fn complete_now(
    s3: &S3,
    call: &Call,
    request: &PublishRequest,
    staging: &Staging,
    parts: &Parts,
    marks: &[u32],
    connection: &Connection,
) -> Result<Entry> {
    let (list, sum) = proved_parts(s3, call, staging, parts, marks)?;
    let key = s3.key(&staging.path)?;
    let conditional = |c: &Connection| (if_none_match(c, &request.expect), if_match(c, &request.expect));
    let (none_match, matches) = conditional(connection);
    s3.wait(
        call,
        LONG,
        s3.request("publish", &staging.path, |c| {
            let whole = sum.as_ref().filter(|_| parts.algorithm == Algorithm::Crc64Nvme);
            let aws = c.service.name == "aws";
            c.client
                .complete_multipart_upload()
                .bucket(&s3.config.bucket)
                .key(&key)
                .upload_id(&parts.upload)
                .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(list.clone())).build())
                .set_checksum_crc64_nvme(whole.map(Value::base64))
                .set_checksum_type(whole.map(|_| ChecksumType::FullObject))
                .set_mpu_object_size(aws.then_some(staging.size as i64))
                .set_if_none_match(none_match.clone())
                .set_if_match(matches.clone())
                .send()
        }),
    )?;
    let head = read::head(s3, call, &staging.path)?.ok_or_else(|| {
        Error::new(
            ErrorKind::Corrupt,
            format!("{} was published and is not there", error::shown(&staging.path)),
        )
    })?;
    let entry = locked(s3, call, request, &head)?;
    s3.uploads.ended(&parts.upload)?;
    Ok(entry)
}

/// The parts on the server, complete and as they were sent, and the digest of the whole where theirs combine.
fn proved_parts(
    s3: &S3,
    call: &Call,
    staging: &Staging,
    parts: &Parts,
    marks: &[u32],
) -> Result<(Vec<CompletedPart>, Option<Value>)> {
    let incomplete = |what: String| {
        Err(Error::new(ErrorKind::Corrupt, format!("{}: {what}", error::shown(&staging.path)))
            .with_context("hint", "it is sent again from what is missing"))
    };
    if parts.part == 0 {
        return Err(stale(&staging.path, "was staged by somebody else"));
    }
    let mut held = BTreeMap::new();
    for part in stage::list_parts(s3, call, &staging.path, &parts.upload)? {
        held.insert(part.part_number().unwrap_or(0) as u64, part);
    }
    let (mut list, mut values) = (Vec::new(), BTreeMap::new());
    for number in 1..=staging.size.div_ceil(parts.part) {
        let range = stage::range_of(number, parts.part, staging.size).expect("a part of the file");
        let Some(part) = held.get(&number).filter(|p| p.size() == Some(range.length as i64)) else {
            return incomplete(format!("part {number} is not staged whole"));
        };
        let value = stage::listed_value(part, parts.algorithm);
        let marked = marks.get(number as usize - 1).copied();
        if let (Some(value), Some(marked)) = (&value, marked)
            && value.mark() != marked
        {
            return incomplete(format!("part {number} is not what was sent"));
        }
        let text = value.as_ref().map(Value::base64);
        let done =
            CompletedPart::builder().part_number(number as i32).set_e_tag(part.e_tag().map(str::to_owned));
        list.push(match parts.algorithm {
            Algorithm::Crc64Nvme => done.set_checksum_crc64_nvme(text).build(),
            Algorithm::Crc32c => done.set_checksum_crc32_c(text).build(),
            Algorithm::Md5 => done.build(),
        });
        if let Some(value) = value {
            values.insert(number, value);
        }
    }
    let sum = if values.len() == list.len() { stage::whole(&values, parts, staging.size) } else { None };
    if let (Some(sum), Some(sent)) = (&sum, &parts.whole)
        && sum != sent
    {
        return incomplete("its parts are not what was sent".to_owned());
    }
    Ok((list, parts.whole.clone().or(sum)))
}

/// The lock of an upload counts from its beginning: one that was long under way is locked anew, and so is one whose server
/// shows no lock.
fn late_lock(s3: &S3, request: &PublishRequest, head: &Head) -> Option<Retention> {
    let wanted = lock_for(s3, &request.path, &request.attributes)?;
    let held = head.retention().map_or(0, |r| r.until);
    // Not for the minutes that an upload takes.
    (wanted.until - held > 3600 && wanted.until > now()).then_some(wanted)
}

/// Locks an object. Errors: the server's.
pub fn set_lock(
    s3: &S3,
    call: &Call,
    path: &offsite_plugin_api::TargetPath,
    retention: &Retention,
) -> Result<()> {
    let key = s3.key(path)?;
    s3.wait(
        call,
        SHORT,
        s3.request("lock", path, |c| {
            let lock = ObjectLockRetention::builder()
                .mode(ObjectLockRetentionMode::from(retention.mode.as_str()))
                .retain_until_date(DateTime::from_secs(retention.until))
                .build();
            c.client.put_object_retention().bucket(&s3.config.bucket).key(&key).retention(lock).send()
        }),
    )
    .map(drop)
}
