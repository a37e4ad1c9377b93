//! Staging: nothing for a small object (its bytes go up with the publish); a multipart upload for everything else.
//!
//! Every part goes up with a digest that the server checks. A part that fits into memory is read once and its digest sent
//! in the request's head; a larger one carries it behind the body where the server takes that, else it is read twice. After
//! each part there is a checkpoint. A resume takes no part on trust: the server's list must show its size and the digest
//! that was written down when it was sent.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_s3::operation::create_multipart_upload::CreateMultipartUploadOutput;
use aws_sdk_s3::operation::upload_part::builders::UploadPartFluentBuilder;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, ObjectLockMode, Part, StorageClass};
use aws_smithy_types::DateTime;
use bytes::Bytes;
use offsite_plugin_api::{
    Attributes, Call, Error, ErrorKind, Range, Ranges, Result, ResumeFrom, Retention, Session, Source,
    StageRequest, Staged, TargetPath, Token,
};

use super::body;
use super::client::{LARGEST, MOST_PARTS, S3, SHORT, lock};
use super::config::PART_UNIT;
use super::connect::Connection;
use super::digest::{Algorithm, Running, Value};
use super::token::{self, Parts, Staging, stale};
use super::uploads::now;
use super::{chunked, error, write};

/// Objects up to this size go up in one request, with the publish.
pub const SMALL: u64 = 8 << 20;
/// Of all parts that are held in memory at once.
const MEMORY: u64 = 64 << 20;

pub fn stage(
    s3: &S3,
    call: &Call,
    request: &StageRequest,
    source: &dyn Source,
    session: &dyn Session,
) -> Result<Staged> {
    call.proceed()?;
    let connection = s3.wait(call, SHORT, s3.connection())?;
    s3.new_key(&request.path, &connection)?;
    if request.size > LARGEST {
        let message = format!("{} is larger than S3 takes (5 TiB)", error::shown(&request.path));
        return Err(Error::new(ErrorKind::TooLarge, message));
    }
    let resumed = match &request.resume {
        Some(resume) => Some(take_up(s3, call, request, resume)?),
        None => None,
    };
    if request.size <= SMALL {
        let staging = match resumed {
            Some((staging, _)) => staging,
            None => Staging::small(&request.path, token::nonce()?, request.size),
        };
        return Ok(Staged { token: staging.token(), size: request.size, digests: Vec::new() });
    }
    in_parts(s3, call, connection, request, source, session, resumed)
}

/// By a multipart upload, whatever the size.
pub fn in_parts(
    s3: &S3,
    call: &Call,
    connection: Arc<Connection>,
    request: &StageRequest,
    source: &dyn Source,
    session: &dyn Session,
    resumed: Option<(Staging, BTreeMap<u64, Value>)>,
) -> Result<Staged> {
    let (staging, done) = match resumed {
        Some(resumed) => resumed,
        None => (create(s3, call, &connection, request)?, BTreeMap::new()),
    };
    let parts = staging.parts.clone().expect("what is not small has parts");
    let work = Work::new(s3, call, connection, request, source, session, staging, parts, done);
    work.run()
}

/// Bytes of a part: a multiple of 16 MiB, so that parts hold whole blocks of the host's, and few enough parts.
pub fn part_size(size: u64, wanted: Option<u64>) -> u64 {
    let needed = size.div_ceil(MOST_PARTS).next_multiple_of(PART_UNIT);
    needed.max(wanted.unwrap_or(PART_UNIT))
}

/// The host's own records (claim marker, manifests) and the check's objects: replaced and pruned all the time, so never
/// locked.
pub fn is_record(path: &TargetPath) -> bool {
    let first = path.components().next().unwrap_or_default();
    matches!(first, b"offsite-target" | b"offsite-manifest") || first.starts_with(b"offsite-check ")
}

/// The lock that an object gets: what the host asks for, else what the options say.
pub fn lock_for(s3: &S3, path: &TargetPath, attributes: &Attributes) -> Option<Retention> {
    attributes.retention.clone().or_else(|| {
        let (mode, days) = s3.config.retention.filter(|_| !is_record(path))?;
        Some(Retention { mode: mode.to_owned(), until: now() + i64::from(days) * 86_400 })
    })
}

pub fn lock_mode(retention: &Retention) -> ObjectLockMode {
    ObjectLockMode::from(retention.mode.as_str())
}

pub fn class_for(s3: &S3, attributes: &Attributes) -> Option<StorageClass> {
    attributes.class.as_ref().or(s3.config.storage_class.as_ref()).map(|c| StorageClass::from(c.as_str()))
}

fn create(s3: &S3, call: &Call, connection: &Connection, request: &StageRequest) -> Result<Staging> {
    let algorithm = connection.algorithm(&s3.config);
    let nonce = token::nonce()?;
    let key = s3.key(&request.path)?;
    let retention = lock_for(s3, &request.path, &request.attributes);
    let first = s3.uploads.asking(&request.path, &request.owner)?;
    let answer = s3.wait(
        call,
        SHORT,
        s3.request("begin the upload of", &request.path, |c| {
            let (checksum, kind) = match algorithm {
                Algorithm::Crc64Nvme => (Some(ChecksumAlgorithm::Crc64Nvme), Some(ChecksumType::FullObject)),
                Algorithm::Crc32c => (Some(ChecksumAlgorithm::Crc32C), None),
                Algorithm::Md5 => (None, None),
            };
            let sent = c
                .client
                .create_multipart_upload()
                .bucket(&s3.config.bucket)
                .key(&key)
                .set_checksum_algorithm(checksum)
                .set_checksum_type(kind)
                .set_metadata(Some(write::metadata(&nonce, &request.attributes)))
                .set_storage_class(class_for(s3, &request.attributes))
                .set_object_lock_mode(retention.as_ref().map(lock_mode))
                .set_object_lock_retain_until_date(retention.as_ref().map(|r| DateTime::from_secs(r.until)))
                .send();
            async {
                let sent = sent.await;
                match sent.as_ref().err().and_then(|f| error::named_upload(f.raw_response())) {
                    Some(upload) => Ok(CreateMultipartUploadOutput::builder().upload_id(upload).build()),
                    None => sent,
                }
            }
        }),
    )?;
    let upload = answer.upload_id().unwrap_or_default().to_owned();
    if upload.is_empty() {
        return Err(Error::new(ErrorKind::Other, "the server began an upload and gave it no id"));
    }
    let named = match algorithm {
        Algorithm::Crc64Nvme => Some(ChecksumAlgorithm::Crc64Nvme),
        Algorithm::Crc32c => Some(ChecksumAlgorithm::Crc32C),
        Algorithm::Md5 => None,
    };
    if named.is_some() && answer.checksum_algorithm() == named.as_ref() {
        s3.checks.store(true, Ordering::Relaxed);
    }
    let parts = Parts {
        upload: upload.clone(),
        part: part_size(request.size, s3.config.part_size),
        algorithm,
        whole: None,
    };
    let staging = Staging::large(&request.path, nonce, request.size, parts);
    s3.uploads.begun(&request.path, &request.owner, &upload, staging.token(), first)?;
    Ok(staging)
}

/// What of an earlier staging the server still holds, as it was sent. Errors: `StaleToken` when it is of no use.
fn take_up(
    s3: &S3,
    call: &Call,
    request: &StageRequest,
    resume: &ResumeFrom,
) -> Result<(Staging, BTreeMap<u64, Value>)> {
    let (staging, marks) = Staging::parse(&resume.token)?;
    if staging.path != request.path || staging.size != request.size {
        return Err(stale(&request.path, "was staged as something else"));
    }
    let Some(parts) = &staging.parts else {
        if s3.is_discarded(&staging.nonce) {
            return Err(stale(&request.path, "was discarded"));
        }
        return Ok((staging, BTreeMap::new()));
    };
    if parts.part == 0 || !parts.part.is_multiple_of(PART_UNIT) {
        return Err(stale(&request.path, "was staged in parts of unknown size"));
    }
    let wanted = Ranges::from_list(&resume.ranges);
    let missing = wanted.missing(request.size);
    let mut done = BTreeMap::new();
    for part in list_parts(s3, call, &staging.path, &parts.upload)? {
        let number = part.part_number().unwrap_or(0) as u64;
        let Some(range) = range_of(number, parts.part, request.size) else { continue };
        let asked = missing.iter().all(|gap| gap.end() <= range.offset || gap.offset >= range.end());
        let value = listed_value(&part, parts.algorithm);
        let marked = marks.get(number as usize - 1).copied().unwrap_or(0);
        // After a complete staging only the whole's digest is known; it is compared when all parts are.
        let proved =
            value.as_ref().is_some_and(|v| v.mark() == marked || (marks.is_empty() && parts.whole.is_some()));
        if let Some(value) = value
            && asked
            && proved
            && part.size() == Some(range.length as i64)
        {
            done.insert(number, value);
        }
    }
    Ok((staging, done))
}

/// A part's bytes in the file; `None` for a number that it has not.
pub fn range_of(number: u64, part: u64, size: u64) -> Option<Range> {
    let offset = number.checked_sub(1)?.checked_mul(part)?;
    (offset < size).then(|| Range { offset, length: part.min(size - offset) })
}

/// The digest that the server holds of a part. Without a CRC its ETag is its MD5.
pub fn listed_value(part: &Part, algorithm: Algorithm) -> Option<Value> {
    match algorithm {
        Algorithm::Crc64Nvme => part.checksum_crc64_nvme().and_then(Value::from_base64),
        Algorithm::Crc32c => part.checksum_crc32_c().and_then(Value::from_base64),
        Algorithm::Md5 => part.e_tag().map(|t| t.trim_matches('"')).and_then(Value::from_hex),
    }
}

/// Every part the server holds of an upload. Errors: `StaleToken` when there is no such upload.
pub fn list_parts(s3: &S3, call: &Call, path: &TargetPath, upload: &str) -> Result<Vec<Part>> {
    let key = s3.key(path)?;
    let mut parts = Vec::new();
    let mut marker: Option<String> = None;
    loop {
        let page = s3.wait(
            call,
            SHORT,
            s3.request("look at what is staged of", path, |c| {
                c.client
                    .list_parts()
                    .bucket(&s3.config.bucket)
                    .key(&key)
                    .upload_id(upload)
                    .set_part_number_marker(marker.clone())
                    .send()
            }),
        )?;
        parts.extend_from_slice(page.parts());
        let next = page.next_part_number_marker().map(str::to_owned);
        let more = page.is_truncated() == Some(true) && next.is_some() && next != marker;
        if !more || parts.len() as u64 > MOST_PARTS {
            return Ok(parts);
        }
        marker = next;
    }
}

struct State {
    /// Numbers of the parts to send, the next one last.
    todo: Vec<u64>,
    done: BTreeMap<u64, Value>,
    ranges: Ranges,
    failure: Option<Error>,
}

struct Work<'a> {
    s3: &'a S3,
    call: &'a Call,
    connection: Arc<Connection>,
    request: &'a StageRequest,
    source: &'a dyn Source,
    session: &'a dyn Session,
    staging: Staging,
    parts: Parts,
    streams: u64,
    state: Mutex<State>,
    /// Checkpoints one at a time, each with all before it.
    checkpointing: Mutex<()>,
}

impl<'a> Work<'a> {
    #[allow(clippy::too_many_arguments)]
    fn new(
        s3: &'a S3,
        call: &'a Call,
        connection: Arc<Connection>,
        request: &'a StageRequest,
        source: &'a dyn Source,
        session: &'a dyn Session,
        staging: Staging,
        parts: Parts,
        done: BTreeMap<u64, Value>,
    ) -> Self {
        let count = request.size.div_ceil(parts.part);
        let todo: Vec<u64> = (1..=count).rev().filter(|n| !done.contains_key(n)).collect();
        let mut ranges = Ranges::default();
        for number in done.keys() {
            range_of(*number, parts.part, request.size).into_iter().for_each(|r| ranges.insert(r));
        }
        let streams = u64::from(request.streams.max(1)).min(todo.len().max(1) as u64);
        let state = Mutex::new(State { todo, done, ranges, failure: None });
        Self {
            s3,
            call,
            connection,
            request,
            source,
            session,
            staging,
            parts,
            streams,
            state,
            checkpointing: Mutex::default(),
        }
    }

    fn run(self) -> Result<Staged> {
        // The token is known before any byte is: whatever comes, this upload can be found again.
        self.checkpoint()?;
        if self.streams == 1 {
            self.send_parts();
        } else {
            std::thread::scope(|scope| {
                for _ in 0..self.streams {
                    scope.spawn(|| self.send_parts());
                }
            });
        }
        let state = self.state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(error) = state.failure {
            return Err(error);
        }
        let sum = whole(&state.done, &self.parts, self.request.size);
        if self.parts.whole.is_some() && sum != self.parts.whole {
            return Err(stale(&self.request.path, "is not what was staged"));
        }
        let upload = self.parts.upload.clone();
        // Where digests do not combine, the token goes on naming each part's.
        let marks = if sum.is_some() { Vec::new() } else { marks(&state.done) };
        let mut staging = self.staging;
        staging.parts = Some(Parts { whole: sum, ..self.parts });
        let token = staging.token_with(&marks);
        self.s3.uploads.complete(&upload, &token)?;
        Ok(Staged { token, size: self.request.size, digests: Vec::new() })
    }

    fn send_parts(&self) {
        loop {
            let number = {
                let mut state = lock(&self.state);
                if state.failure.is_some() {
                    return;
                }
                match state.todo.pop() {
                    Some(number) => number,
                    None => return,
                }
            };
            if let Err(error) = self.send_one(number) {
                lock(&self.state).failure.get_or_insert(error);
                return;
            }
        }
    }

    fn send_one(&self, number: u64) -> Result<()> {
        let range =
            range_of(number, self.parts.part, self.request.size).expect("only parts of the file are sent");
        let value = self.send_part(number, range)?;
        self.call.acked(range.length);
        {
            let mut state = lock(&self.state);
            state.done.insert(number, value);
            state.ranges.insert(range);
        }
        self.checkpoint()
    }

    /// What the server holds now is recorded. It keeps parts on its disks before it answers.
    fn checkpoint(&self) -> Result<()> {
        let _one = lock(&self.checkpointing);
        let (token, ranges) = {
            let state = lock(&self.state);
            (self.staging.token_with(&marks(&state.done)), state.ranges.as_slice().to_vec())
        };
        self.session.checkpoint(&token, &ranges, true)
    }

    /// A sibling's failure ends this part, too.
    fn stop(&self) -> Result<()> {
        self.call.proceed()?;
        match &lock(&self.state).failure {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn send_part(&self, number: u64, range: Range) -> Result<Value> {
        let algorithm = self.parts.algorithm;
        if range.length * self.streams <= MEMORY {
            let (held, digests) = self.read_all(range)?;
            let mut pieces = held.into_iter();
            let value = digests.value.clone();
            self.put(number, range, Some(digests), &mut || Ok(pieces.next()))?;
            return Ok(value);
        }
        let trailers = self.connection.service.trailers && algorithm != Algorithm::Md5 && !self.wants_md5();
        let value = if trailers { None } else { Some(self.read_through(range)?) };
        let mut running = Some(algorithm.start());
        let mut read = None;
        let mut pieces = body::pieces(range);
        let mut framed = std::collections::VecDeque::new();
        let sent = self.put(number, range, value, &mut || {
            if let Some(bytes) = framed.pop_front() {
                return Ok(Some(bytes));
            }
            if let Some((offset, length)) = pieces.next() {
                let piece = body::read(self.source, offset, length)?;
                running.as_mut().expect("until the last piece").update(&piece);
                if !trailers {
                    return Ok(Some(piece));
                }
                framed.extend(chunked::chunk(piece));
            } else if let Some(running) = running.take() {
                let value = running.finish();
                if trailers {
                    framed.push_back(chunked::end(algorithm, &value));
                }
                read = Some(value);
            }
            Ok(framed.pop_front())
        })?;
        match read {
            // Where the digest came first, both readings of the part must agree; where it came last, the server's must.
            Some(read) if sent.as_ref().is_none_or(|sent| *sent == read) => Ok(read),
            _ => Err(Error::new(ErrorKind::Corrupt, format!("part {number} did not arrive as it was read"))
                .with_retry(offsite_plugin_api::Retry::Now)),
        }
    }

    /// Whether it is open if the server checks the digest that it is given.
    fn wants_md5(&self) -> bool {
        self.s3.wants_md5(&self.connection, self.parts.algorithm)
    }

    /// The part in memory, piece by piece, and its digests.
    fn read_all(&self, range: Range) -> Result<(Vec<Bytes>, Digests)> {
        let mut running = self.digests();
        let mut held = Vec::new();
        for (offset, length) in body::pieces(range) {
            self.stop()?;
            let piece = body::read(self.source, offset, length)?;
            running.update(&piece);
            held.push(piece);
        }
        Ok((held, running.finish()))
    }

    fn read_through(&self, range: Range) -> Result<Digests> {
        let mut running = self.digests();
        for (offset, length) in body::pieces(range) {
            self.stop()?;
            running.update(&body::read(self.source, offset, length)?);
            self.call.alive("reading the part before it is sent");
        }
        Ok(running.finish())
    }

    fn digests(&self) -> RunningDigests {
        let md5 = self.wants_md5().then(|| Algorithm::Md5.start());
        RunningDigests { value: self.parts.algorithm.start(), md5 }
    }

    /// One UploadPart. `digests`: in the request's head; `None`: behind the body. Gives it back, or as the server tells it;
    /// not every server does.
    fn put(
        &self,
        number: u64,
        range: Range,
        digests: Option<Digests>,
        next: &mut dyn FnMut() -> Result<Option<Bytes>>,
    ) -> Result<Option<Value>> {
        let behind = digests.is_none();
        let algorithm = self.parts.algorithm;
        let length = if behind { chunked::length(range.length, algorithm) } else { range.length };
        let (stream, to) = body::channel(length);
        let (s3, path) = (self.s3, &self.request.path);
        let request = self
            .connection
            .client
            .upload_part()
            .bucket(&s3.config.bucket)
            .key(s3.key(path)?)
            .upload_id(&self.parts.upload)
            .part_number(number as i32)
            .content_length(length as i64)
            .body(stream);
        let custom = match &digests {
            Some(digests) => {
                let request = headed(request, algorithm, &digests.value);
                let request = match &digests.md5 {
                    Some(md5) => request.content_md5(md5.base64()),
                    None => request,
                };
                request.customize().disable_payload_signing()
            }
            None => request.customize().interceptor(chunked::Chunked { algorithm, size: range.length }),
        };
        let sent = body::send(s3.runtime(), self.call, &|| self.stop(), custom.send(), to, next)?;
        let answer = match sent {
            Ok(answer) => answer,
            Err(failure) => {
                let healed =
                    s3.wait(self.call, Duration::from_secs(15), async { Ok(s3.heal(&failure).await) })?;
                let mut error = error::failed("send", path, &failure);
                if behind && matches!(error.kind(), ErrorKind::Other | ErrorKind::Unsupported) {
                    let hint = "if the server takes no digests behind the body: service = \"other\"";
                    error = error.with_context("hint", hint);
                }
                return Err(if healed { error.with_retry(offsite_plugin_api::Retry::Now) } else { error });
            }
        };
        let told = match algorithm {
            Algorithm::Crc64Nvme => answer.checksum_crc64_nvme().and_then(Value::from_base64),
            Algorithm::Crc32c => answer.checksum_crc32_c().and_then(Value::from_base64),
            Algorithm::Md5 => None,
        };
        let given = digests.map(|digests| digests.value);
        if told.is_some() && (given.is_none() || given == told) {
            s3.checks.store(true, Ordering::Relaxed);
        }
        Ok(given.or(told))
    }
}

fn headed(request: UploadPartFluentBuilder, algorithm: Algorithm, value: &Value) -> UploadPartFluentBuilder {
    match algorithm {
        Algorithm::Crc64Nvme => request.checksum_crc64_nvme(value.base64()),
        Algorithm::Crc32c => request.checksum_crc32_c(value.base64()),
        Algorithm::Md5 => request.content_md5(value.base64()),
    }
}

/// Of each part up to the last one that is there; 0 for one that is not.
fn marks(done: &BTreeMap<u64, Value>) -> Vec<u32> {
    let last = done.keys().next_back().copied().unwrap_or(0);
    let mut marks = vec![0; last as usize];
    for (number, value) in done {
        marks[*number as usize - 1] = value.mark();
    }
    marks
}

/// The digest of the file from those of its parts, in order; `None` where they do not combine.
pub fn whole(done: &BTreeMap<u64, Value>, parts: &Parts, size: u64) -> Option<Value> {
    if parts.algorithm == Algorithm::Md5 {
        return None;
    }
    let mut sum: Option<Value> = None;
    for (number, value) in done {
        let length = range_of(*number, parts.part, size)?.length;
        sum = Some(match sum {
            None => value.clone(),
            Some(sum) => parts.algorithm.combine(&sum, value, length)?,
        });
    }
    sum
}

/// A small object's bytes, and the digest in the making.
/// Of a part: the one that is kept, and MD5 where the server may not know that.
struct Digests {
    value: Value,
    md5: Option<Value>,
}

struct RunningDigests {
    value: Running,
    md5: Option<Running>,
}

impl RunningDigests {
    fn update(&mut self, bytes: &[u8]) {
        self.value.update(bytes);
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
    }

    fn finish(self) -> Digests {
        Digests { value: self.value.finish(), md5: self.md5.map(Running::finish) }
    }
}

pub fn read_small(source: &dyn Source, size: u64, mut running: Running) -> Result<(Vec<Bytes>, Value)> {
    let mut held = Vec::new();
    for (offset, length) in body::pieces(Range { offset: 0, length: size }) {
        let piece = body::read(source, offset, length)?;
        running.update(&piece);
        held.push(piece);
    }
    Ok((held, running.finish()))
}

/// The token under which a complete or partial upload is known.
pub fn token_of(path: &TargetPath, upload: &str, known: Option<Token>) -> Token {
    known.unwrap_or_else(|| Staging::found(path, upload).token())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_few_whole_blocks_and_cover_the_file() {
        const MIB: u64 = 1 << 20;
        for (size, part) in [
            (SMALL + 1, 16 * MIB),
            (1 << 30, 16 * MIB),
            (160_000 * MIB, 16 * MIB),
            (160_000 * MIB + 1, 32 * MIB),
            (1 << 40, 112 * MIB),
            (LARGEST, 528 * MIB),
        ] {
            assert_eq!(part_size(size, None), part, "{size}");
            let count = size.div_ceil(part);
            assert!(count <= MOST_PARTS);
            let last = range_of(count, part, size).unwrap();
            assert_eq!(last.end(), size);
            assert_eq!(range_of(count + 1, part, size), None);
        }
        assert_eq!(part_size(1 << 30, Some(64 * MIB)), 64 * MIB);
        assert_eq!((range_of(0, 5, 100), range_of(u64::MAX, u64::MAX, 100)), (None, None));
    }

    #[test]
    fn the_whole_is_the_sum_of_its_parts_in_order() {
        let parts = Parts { upload: String::new(), part: 4, algorithm: Algorithm::Crc64Nvme, whole: None };
        let of = |bytes: &[u8]| {
            let mut running = Algorithm::Crc64Nvme.start();
            running.update(bytes);
            running.finish()
        };
        let done = BTreeMap::from([(1, of(b"1234")), (2, of(b"5678")), (3, of(b"9"))]);
        assert_eq!(whole(&done, &parts, 9), Some(of(b"123456789")));
        assert_eq!(whole(&done, &Parts { algorithm: Algorithm::Md5, ..parts }, 9), None);
    }
}
