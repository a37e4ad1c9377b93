//! `check`: every act a run needs, on objects of our own, taken away again.

use offsite_plugin_api::{
    Backend, Bytes, Call, CheckReport, Entry, ErrorKind, Expect, Probe, Result, StepResult, TargetPath,
    Unwatched,
};

use super::client::{S3, SHORT};
use super::connect::no_bucket;
use super::digest::Algorithm;
use super::{list, stage, token};

/// Characters beyond ASCII, composed and decomposed, and those that mean something in a URL.
const NAME: &str = "offsite-check é e\u{301} 日本 %41+&?#";
const REST: &[&str] = &["list", "write", "read", "names", "replace", "upload", "delete"];

pub fn check(s3: &S3, call: &Call) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    let connection = match s3.wait(call, SHORT, s3.connection()) {
        Ok(connection) => connection,
        Err(error) => {
            report.add("reach", StepResult::Failed, error.to_string());
            report.skip(&["authenticate"], "the server was not reached");
            report.skip(REST, "the server was not reached");
            return Ok(report);
        }
    };
    match list::try_list(s3, call) {
        Ok(_) => {
            report.add("reach", StepResult::Passed, format!("{} answers", s3.config.place()));
            report.add("authenticate", StepResult::Passed, "the key is accepted");
            report.add("list", StepResult::Passed, "may list");
        }
        Err(error) => {
            let step = match error.kind() {
                ErrorKind::Unauthenticated => "authenticate",
                ErrorKind::Denied => "list",
                _ => "reach",
            };
            if step != "reach" {
                report.add("reach", StepResult::Passed, format!("{} answers", s3.config.place()));
            }
            if step == "list" {
                report.add("authenticate", StepResult::Passed, "the key is accepted");
            }
            let error = if error.kind() == &ErrorKind::NotFound { no_bucket(&s3.config) } else { error };
            report.add(step, StepResult::Failed, error.to_string());
            report.skip(REST, "an earlier step failed");
            return Ok(report);
        }
    }
    // Made anew if the bucket turned out to be elsewhere.
    let connection = s3.wait(call, SHORT, s3.connection()).unwrap_or(connection);
    let server = connection.server.clone().map(|s| format!(" ({s})")).unwrap_or_default();
    let secure = if s3.config.endpoint.as_ref().is_some_and(|e| !e.tls) { ", unencrypted" } else { "" };
    report.server =
        Some(format!("S3, {}{server}, region {}{secure}", connection.service.name, connection.region));
    warn(s3, &mut report);

    let path = TargetPath::new(format!("{NAME} {}", token::nonce()?))?;
    act(s3, call, &mut report, &path)?;
    Ok(report)
}

/// What works, but a user should know.
fn warn(s3: &S3, report: &mut CheckReport) {
    if s3.config.endpoint.as_ref().is_some_and(|e| !e.tls) {
        report.add("encryption", StepResult::Warned, "the connection is not encrypted (http://)");
    }
    let class = s3.config.storage_class.as_deref().unwrap_or_default();
    if matches!(class, "GLACIER" | "DEEP_ARCHIVE") {
        report.add(
            "storage class",
            StepResult::Failed,
            format!("objects in {class} must be restored for hours before they can be read; take GLACIER_IR or STANDARD_IA, and move images by a lifecycle rule if you must"),
        );
    }
}

/// One object, and its name is the awkward one: in a bucket that locks everything it stays.
fn act(s3: &S3, call: &Call, report: &mut CheckReport, path: &TargetPath) -> Result<()> {
    let probe = Probe::new(s3, call, std::process::id().into(), "")?;
    let written = probe.put(path, Probe::FIRST, Expect::Absent);
    if !report.step("write", written.map(|_| "one object, with a digest that the server checked".to_owned()))
    {
        report.skip(REST, "nothing could be written");
        return Ok(());
    }
    let read = probe.read(path, Probe::FIRST);
    report.step("read", read.map(|()| "read back the same".to_owned()));
    match probe.listed(path.as_bytes()) {
        Ok(found) if found.contains(path) => {
            report.add("names", StepResult::Passed, "a name beyond ASCII comes back byte for byte");
        }
        Ok(_) => report.add(
            "names",
            StepResult::Failed,
            "the object just written is not listed: listings are late or leave objects out, or its name comes back changed",
        ),
        Err(error) => report.add("names", StepResult::Failed, error.to_string()),
    }
    if s3.config.retention.is_some() {
        lock(s3, call, report);
    }
    let replaced = probe.put(path, Probe::SECOND, Expect::Any).and_then(|_| probe.read(path, Probe::SECOND));
    report.step("replace", replaced.map(|()| "replaced in one act".to_owned()));
    digest(s3, call, report, path);
    let uploaded = large(s3, call, &probe, path).and_then(|_| probe.read(path, Probe::FIRST));
    report.step("upload", uploaded.map(|()| "in parts, listed and completed".to_owned()));
    match probe.remove(path) {
        // By the bucket's own default, not by an option of ours.
        Err(error) if *error.kind() == ErrorKind::Retained => report.add(
            "delete",
            StepResult::Warned,
            format!("{error}: the bucket locks every object, this one too, and old manifests stay"),
        ),
        deleted => drop(report.step("delete", deleted.map(|()| "deleted".to_owned()))),
    }
    Ok(())
}

/// The bucket can lock objects. That the key may do so is seen only by locking one, which would then stay.
fn lock(s3: &S3, call: &Call, report: &mut CheckReport) {
    let asked = s3.wait(
        call,
        SHORT,
        s3.request("ask for the Object Lock of", &TargetPath::root(), |c| {
            c.client.get_object_lock_configuration().bucket(&s3.config.bucket).send()
        }),
    );
    match asked {
        Ok(answer) if answer.object_lock_configuration().is_some_and(|c| c.object_lock_enabled().is_some()) => {
            report.add("lock", StepResult::Passed, "the bucket has Object Lock");
        }
        Err(error) if *error.kind() == ErrorKind::Denied => report.add(
            "lock",
            StepResult::Warned,
            "whether the bucket has Object Lock is not known: the key may not ask (s3:GetBucketObjectLockConfiguration)",
        ),
        Err(error) => report.add("lock", StepResult::Failed, error.to_string()),
        Ok(_) => report.add("lock", StepResult::Failed, "the bucket has no Object Lock: drop retention_mode"),
    }
}

/// A server that takes a wrong digest checks none: nothing may then be called verified.
fn digest(s3: &S3, call: &Call, report: &mut CheckReport, path: &TargetPath) {
    let tried = s3.wait(call, SHORT, async {
        let connection = s3.connection().await?;
        let algorithm = connection.algorithm(&s3.config);
        let mut other = algorithm.start();
        other.update(b"something else");
        let value = other.finish().base64();
        let put = connection
            .client
            .put_object()
            .bucket(&s3.config.bucket)
            .key(s3.key(path)?)
            .body(aws_sdk_s3::primitives::ByteStream::from_static(Probe::SECOND));
        let put = match algorithm {
            Algorithm::Crc64Nvme => put.checksum_crc64_nvme(value),
            Algorithm::Crc32c => put.checksum_crc32_c(value),
            Algorithm::Md5 => put.content_md5(value),
        };
        Ok((algorithm, put.send().await.map_err(|e| super::error::failed("write", path, &e))))
    });
    match tried {
        Ok((algorithm, Err(e)))
            if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Other | ErrorKind::InvalidConfig) =>
        {
            report.add(
                "digest",
                StepResult::Passed,
                format!("the server refuses a wrong {}", algorithm.name()),
            );
        }
        Ok((algorithm, Ok(_))) => report.add(
            "digest",
            StepResult::Failed,
            format!(
                "the server takes a wrong {} for right, so nothing it stores could be called verified{}",
                algorithm.name(),
                if algorithm == Algorithm::Md5 { "" } else { "; give the option checksum = \"md5\"" }
            ),
        ),
        Ok((_, Err(error))) | Err(error) => report.add("digest", StepResult::Failed, error.to_string()),
    }
}

/// As parts, however small.
fn large(s3: &S3, call: &Call, probe: &Probe<'_>, path: &TargetPath) -> Result<Entry> {
    let connection = s3.wait(call, SHORT, s3.connection())?;
    let (request, bytes) = (probe.stage_request(path, Probe::FIRST), Bytes(Probe::FIRST));
    let staged = stage::in_parts(s3, call, connection, &request, &bytes, &Unwatched, None)?;
    let published = probe.publish(path, Probe::FIRST, staged.token.clone(), Expect::Any);
    if published.is_err() {
        let _ = s3.discard(call, &staged.token);
    }
    published
}
