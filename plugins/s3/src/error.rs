//! What went wrong with a request, as the contract's kinds and retry classes: one table for the server's codes, one for
//! statuses without a code, one for what kept a request from being answered.
//!
//! The kind decides what the host does, so a missing bucket must not look like a missing object, and a wrong key not like a
//! missing permission. Only the code and the message of a server's answer are kept: the rest of it can hold key ids.

use std::error::Error as StdError;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use offsite_plugin_api::{Error, ErrorKind, Retry, TargetPath};

use ErrorKind::*;

type Meaning = (ErrorKind, &'static str);

const KEYS: &str = "check access_key_id and secret_access_key, and that the key is active";
const CLOCK: &str =
    "the clocks of this machine and the server differ by more than 15 minutes: set this one's";
const POLICY: &str =
    "the key is right, but a policy does not allow this: see the plugin's README for the permissions needed";
const BUCKET: &str = "create the bucket, or correct its name or the endpoint";

/// Codes of error answers, first match.
const CODES: &[(&str, Meaning)] = &[
    ("NoSuchKey", (NotFound, "")),
    ("NoSuchVersion", (NotFound, "")),
    ("NotFound", (NotFound, "")),
    ("NoSuchUpload", (StaleToken, "")),
    ("InvalidPart", (StaleToken, "")),
    ("InvalidPartOrder", (StaleToken, "")),
    ("NoSuchBucket", (InvalidConfig, BUCKET)),
    ("InvalidBucketName", (InvalidConfig, BUCKET)),
    ("InvalidStorageClass", (InvalidConfig, "correct the option storage_class")),
    (
        "ObjectLockConfigurationNotFoundError",
        (InvalidConfig, "the bucket has no Object Lock: drop retention_mode"),
    ),
    ("AccessDenied", (Denied, POLICY)),
    ("AllAccessDisabled", (Denied, POLICY)),
    ("AccountProblem", (Denied, "the account has a problem: ask its owner")),
    ("UnauthorizedAccess", (Denied, POLICY)),
    ("Forbidden", (Denied, POLICY)),
    ("InvalidAccessKeyId", (Unauthenticated, KEYS)),
    ("NoSuchAccessKey", (Unauthenticated, KEYS)),
    ("SignatureDoesNotMatch", (Unauthenticated, KEYS)),
    ("InvalidSecurity", (Unauthenticated, KEYS)),
    ("NotSignedUp", (Unauthenticated, KEYS)),
    ("InvalidToken", (Unauthenticated, "the session token is not valid: get new temporary keys")),
    ("ExpiredToken", (Unauthenticated, "the temporary keys have expired: get new ones")),
    ("TokenRefreshRequired", (Unauthenticated, "the temporary keys have expired: get new ones")),
    ("RequestTimeTooSkewed", (Unauthenticated, CLOCK)),
    ("RequestExpired", (Unauthenticated, CLOCK)),
    ("SlowDown", (Throttled, "")),
    ("SlowDownRead", (Throttled, "")),
    ("SlowDownWrite", (Throttled, "")),
    ("ServiceUnavailable", (Throttled, "")),
    ("Throttling", (Throttled, "")),
    ("ThrottlingException", (Throttled, "")),
    ("RequestLimitExceeded", (Throttled, "")),
    ("TooManyRequests", (Throttled, "")),
    ("BandwidthLimitExceeded", (Throttled, "")),
    ("InternalError", (Busy, "")),
    ("OperationAborted", (Busy, "")),
    ("ConditionalRequestConflict", (Busy, "")),
    ("RequestTimeout", (TimedOut, "")),
    ("PreconditionFailed", (PreconditionFailed, "")),
    (
        "InvalidObjectState",
        (Unsupported, "the object is archived: restore it first, or use another storage_class"),
    ),
    ("EntityTooLarge", (TooLarge, "the server takes no object or part of that size")),
    ("EntityTooSmall", (Corrupt, "")),
    ("BadDigest", (Corrupt, "")),
    ("InvalidDigest", (Corrupt, "")),
    ("XAmzContentChecksumMismatch", (Corrupt, "")),
    ("XAmzContentSHA256Mismatch", (Corrupt, "")),
    ("IncompleteBody", (Interrupted, "")),
    ("KeyTooLongError", (NameRefused, "")),
    ("KeyTooLong", (NameRefused, "")),
    ("InvalidURI", (NameRefused, "")),
    ("XMinioInvalidObjectName", (NameRefused, "")),
    ("QuotaExceeded", (Quota, "the quota of the bucket or account is used up")),
    ("XMinioAdminBucketQuotaExceeded", (Quota, "the quota of the bucket is used up")),
    ("XMinioStorageFull", (NoSpace, "free space on the server")),
    ("InsufficientStorage", (NoSpace, "free space on the server")),
    ("ObjectLocked", (Retained, "")),
    ("MethodNotAllowed", (Unsupported, "")),
    ("NotImplemented", (Unsupported, "the server cannot do that: check the option 'service'")),
];

/// Statuses of answers without a code that is known (answers to HEAD have none).
fn of_status(status: u16) -> Meaning {
    match status {
        400 => (
            Other,
            "a wrong region, expired temporary keys, http:// where the server wants https://, or something this server \
             does not know",
        ),
        401 => (Unauthenticated, KEYS),
        403 => (Denied, "the key may be wrong, or a policy does not allow this: 'offsite check' tells which"),
        404 | 410 => (NotFound, ""),
        405 | 501 => (Unsupported, ""),
        408 => (TimedOut, ""),
        409 | 423 => (Busy, ""),
        412 => (PreconditionFailed, ""),
        413 => (TooLarge, "the server, or a proxy before it, takes no request of that size"),
        429 | 503 => (Throttled, ""),
        507 => (NoSpace, "free space on the server"),
        500..=599 => (Busy, ""),
        _ => (Other, ""),
    }
}

/// What kept a request from being answered, by words of the library's errors, innermost or not.
const WORDS: &[(&str, ErrorKind, &str, &str)] = &[
    (
        "invalid peer certificate",
        UntrustedPeer,
        "the server's certificate is not trusted",
        "give the option ca_file if the server has a certificate authority of its own; check the host's name",
    ),
    (
        "received corrupt message",
        Unreachable,
        "the server does not speak TLS there",
        "write http:// in the endpoint if it really is unencrypted, or correct the port",
    ),
    ("peer is incompatible", UntrustedPeer, "the server offers no TLS 1.2 or 1.3", ""),
    (
        "dns error",
        Unreachable,
        "the server's name is unknown",
        "check the endpoint's host, the region, and this machine's DNS",
    ),
    (
        "failed to lookup",
        Unreachable,
        "the server's name is unknown",
        "check the endpoint's host, the region, and this machine's DNS",
    ),
    (
        "connection refused",
        Unreachable,
        "the server refused the connection",
        "check the endpoint's host and port, and that the server runs",
    ),
    ("network is unreachable", Unreachable, "the network is unreachable", ""),
    ("no route to host", Unreachable, "there is no way to the server", ""),
    (
        "no providers in chain",
        Unauthenticated,
        "no credentials were found",
        "give access_key_id and secret_access_key as credentials, or set up an AWS profile",
    ),
    (
        "credentials",
        Unauthenticated,
        "no usable credentials were found",
        "give access_key_id and secret_access_key as credentials, or check the AWS profile",
    ),
    (
        "identity",
        Unauthenticated,
        "no usable credentials were found",
        "give access_key_id and secret_access_key as credentials, or check the AWS profile",
    ),
    ("timed out", TimedOut, "the server did not answer in time", ""),
    ("timeout", TimedOut, "the server did not answer in time", ""),
];

/// The error for a request that failed when trying to `act` ("list", "write", …) on `path`.
pub fn failed<E>(act: &str, path: &TargetPath, error: &SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let what = format!("cannot {act} {}", shown(path));
    if let Some(response) = error.raw_response() {
        return answered(what, error, response);
    }
    unanswered(what, error)
}

fn meaning(code: &str, message: &str, status: u16) -> Meaning {
    let (kind, hint) =
        CODES.iter().find(|(c, _)| *c == code).map_or_else(|| of_status(status), |(_, m)| m.clone());
    let lower = message.to_ascii_lowercase();
    let locked = ["object lock", "worm protected", "retention", "governance", "legal hold"];
    if matches!(kind, Denied | Unsupported) && locked.iter().any(|w| lower.contains(w)) {
        return (Retained, "the server keeps the object until its lock ends");
    }
    // Garage has one code for every refusal and tells them apart in words.
    let keys = ["invalid signature", "no such key", "access key"];
    if kind == Denied && keys.iter().any(|w| lower.contains(w)) {
        return (Unauthenticated, KEYS);
    }
    if matches!(kind, Denied | Other) && lower.contains("quota") {
        return (Quota, "the quota of the bucket or account is used up");
    }
    (kind, hint)
}

fn answered<E>(what: String, error: &SdkError<E, HttpResponse>, response: &HttpResponse) -> Error
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let status = response.status().as_u16();
    let (code, message) = match error.as_service_error() {
        Some(service) => (service.code().unwrap_or_default(), service.message().unwrap_or_default()),
        None => ("", ""),
    };
    // Servers that were long at work find out after they have said 200.
    if status < 300 && code.is_empty() {
        // A good answer that cannot be read.
        return Error::new(Interrupted, what).with_source(chain(error));
    }
    let (kind, hint) = meaning(code, message, status);
    let retry = match kind {
        Corrupt => Retry::Now,
        Throttled => wait(response).map_or(Retry::Now, Retry::After),
        _ => kind.default_retry(),
    };
    let mut error = Error::new(kind, what).with_retry(retry).with_context("status", status.to_string());
    if !hint.is_empty() {
        error = error.with_context("hint", hint);
    }
    let words = [code, message].into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>().join(": ");
    if words.is_empty() { error } else { error.with_source(bounded(&words)) }
}

fn unanswered<E>(what: String, error: &SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let text = chain(error);
    let lower = text.to_ascii_lowercase();
    let (kind, why, hint) = WORDS
        .iter()
        .find(|(word, ..)| lower.contains(word))
        .map(|(_, kind, why, hint)| (kind.clone(), *why, *hint))
        .unwrap_or_else(|| match error {
            SdkError::TimeoutError(_) => (TimedOut, "the server did not answer in time", ""),
            SdkError::ConstructionFailure(_) => (Other, "the request could not be made", ""),
            _ if lower.contains("invalid http") => {
                (Unreachable, "what answers there does not speak HTTP", "check the endpoint's host and port")
            }
            _ => (Interrupted, "the connection broke off", ""),
        });
    let error = Error::new(kind, format!("{what}: {why}"));
    let error = if hint.is_empty() { error } else { error.with_context("hint", hint) };
    error.with_source(bounded(&text))
}

/// The error for one object of a request for many.
pub fn told(act: &str, path: &TargetPath, code: &str, message: &str) -> Error {
    let (kind, hint) = meaning(code, message, 0);
    let error = Error::new(kind, format!("cannot {act} {}", shown(path)));
    let error = if hint.is_empty() { error } else { error.with_context("hint", hint) };
    error.with_source(bounded(&format!("{code}: {message}")))
}

/// Seconds of `Retry-After`, at most an hour.
fn wait(response: &HttpResponse) -> Option<Duration> {
    let seconds: u64 = response.headers().get("retry-after")?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(3600)))
}

/// The texts of an error and its causes, without repetition.
fn chain(error: &dyn StdError) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !texts.iter().any(|t| t.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
}

/// A server's words as they may be shown: one line, not endless.
fn bounded(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

/// Where the bucket is, if the answer says that it is not where the request was signed for: `Some(None)` when it does not
/// say where.
pub fn elsewhere<E>(error: &SdkError<E, HttpResponse>) -> Option<Option<String>>
where
    E: ProvideErrorMetadata,
{
    let response = error.raw_response()?;
    let status = response.status().as_u16();
    let code = error.as_service_error().and_then(|e| e.code()).unwrap_or_default();
    let said = matches!(
        code,
        "PermanentRedirect"
            | "TemporaryRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException"
            | "IncorrectEndpoint"
    );
    // Answers to HEAD have no code.
    (said
        || matches!(status, 301 | 307)
        || (status == 400 && code.is_empty() && named_region(response).is_some()))
    .then(|| named_region(response))
}

/// The region that an answer names, in its header or its XML.
pub fn named_region(response: &HttpResponse) -> Option<String> {
    if let Some(region) = response.headers().get("x-amz-bucket-region") {
        return plain_region(region);
    }
    let body = std::str::from_utf8(response.body().bytes()?).ok()?;
    let (_, rest) = body.split_once("<Region>")?;
    plain_region(rest.split_once("</Region>")?.0)
}

fn plain_region(text: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (!text.is_empty() && text.len() <= 64 && text.chars().all(good)).then(|| text.to_owned())
}

/// The upload that a success names which the library cannot read: some servers (gofakes3, thus `rclone serve s3`) have
/// another name for the answer's root element.
pub fn named_upload(answer: Option<&HttpResponse>) -> Option<String> {
    let answer = answer.filter(|answer| answer.status().is_success())?;
    let text = std::str::from_utf8(answer.body().bytes()?).ok()?;
    let (_, rest) = text.split_once("<UploadId>")?;
    let (upload, _) = rest.split_once("</UploadId>")?;
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '<' | '>' | '&');
    (!upload.is_empty() && upload.len() <= 1024 && upload.chars().all(plain)).then(|| upload.to_owned())
}

/// Whether temporary keys ran out: new ones may be had.
pub fn expired<E>(error: &SdkError<E, HttpResponse>) -> bool
where
    E: ProvideErrorMetadata,
{
    let code = error.as_service_error().and_then(|e| e.code()).unwrap_or_default();
    matches!(code, "ExpiredToken" | "TokenRefreshRequired")
}

/// `path` as users read it.
pub fn shown(path: &TargetPath) -> String {
    if path.is_root() { "the target's folder".to_owned() } else { format!("'{}'", path.display()) }
}

pub fn exists(path: &TargetPath) -> Error {
    Error::new(Exists, format!("{} exists already", shown(path)))
}

pub fn changed(path: &TargetPath, gone: bool) -> Error {
    let what = if gone { "is gone" } else { "was changed by somebody else" };
    Error::new(PreconditionFailed, format!("{} {what}", shown(path)))
}

#[cfg(test)]
mod tests;
