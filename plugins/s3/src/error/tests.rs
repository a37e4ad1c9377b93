use super::*;
use aws_sdk_s3::error::ErrorMetadata;
use aws_sdk_s3::operation::put_object::PutObjectError;
use aws_sdk_s3::primitives::SdkBody;

fn answer(
    status: u16,
    code: &str,
    message: &str,
    headers: &[(&'static str, &'static str)],
) -> SdkError<PutObjectError, HttpResponse> {
    let body = format!("<Error><Code>{code}</Code><Region>eu-north-1</Region></Error>");
    let mut response = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
    for (name, value) in headers {
        response.headers_mut().insert(*name, *value);
    }
    let meta = ErrorMetadata::builder().code(code).message(message).build();
    SdkError::service_error(PutObjectError::generic(meta), response)
}

fn told(status: u16, code: &str, message: &str) -> Error {
    failed("write", &TargetPath::new("a/b").unwrap(), &answer(status, code, message, &[]))
}

#[test]
fn answers_become_the_right_kind_and_retry_class() {
    for (status, code, message, kind, retry) in [
        (404, "NoSuchKey", "", NotFound, Retry::Never),
        (404, "NoSuchBucket", "", InvalidConfig, Retry::Never),
        (404, "NoSuchUpload", "", StaleToken, Retry::Now),
        (403, "AccessDenied", "", Denied, Retry::Never),
        (403, "AccessDenied", "object protected by object lock", Retained, Retry::Never),
        (403, "InvalidAccessKeyId", "", Unauthenticated, Retry::Never),
        (403, "SignatureDoesNotMatch", "", Unauthenticated, Retry::Never),
        (403, "RequestTimeTooSkewed", "", Unauthenticated, Retry::Never),
        (400, "ExpiredToken", "", Unauthenticated, Retry::Never),
        (503, "SlowDown", "", Throttled, Retry::Now),
        (500, "InternalError", "", Busy, Retry::Now),
        (409, "ConditionalRequestConflict", "", Busy, Retry::Now),
        (412, "PreconditionFailed", "", PreconditionFailed, Retry::Never),
        (400, "BadDigest", "", Corrupt, Retry::Now),
        (403, "InvalidObjectState", "", Unsupported, Retry::Never),
        (400, "KeyTooLongError", "", NameRefused, Retry::Never),
        (403, "AccessDenied", "Forbidden: Invalid signature", Unauthenticated, Retry::Never),
        (403, "AccessDenied", "Forbidden: No such key: GK1", Unauthenticated, Retry::Never),
        (403, "AccessDenied", "bucket quota exceeded", Quota, Retry::Never),
        (507, "XMinioStorageFull", "", NoSpace, Retry::Never),
        (418, "Teapot", "", Other, Retry::Never),
        (502, "", "", Busy, Retry::Now),
        (403, "", "", Denied, Retry::Never),
    ] {
        let error = told(status, code, message);
        assert_eq!((error.kind(), error.retry()), (&kind, retry), "{status} {code}: {error}");
        assert!(error.to_string().contains("'a/b'"), "{error}");
    }
}

#[test]
fn a_server_given_wait_is_honoured_within_reason() {
    let root = TargetPath::root();
    let error = failed("list", &root, &answer(503, "SlowDown", "", &[("retry-after", "7")]));
    assert_eq!(error.retry(), Retry::After(Duration::from_secs(7)));
    let error = failed("list", &root, &answer(503, "SlowDown", "", &[("retry-after", "99999999")]));
    assert_eq!(error.retry(), Retry::After(Duration::from_secs(3600)));
}

#[test]
fn a_bucket_elsewhere_is_recognised_and_its_region_read() {
    let header = answer(301, "PermanentRedirect", "", &[("x-amz-bucket-region", "eu-west-3")]);
    assert_eq!(elsewhere(&header), Some(Some("eu-west-3".into())));
    assert_eq!(
        elsewhere(&answer(400, "AuthorizationHeaderMalformed", "", &[])),
        Some(Some("eu-north-1".into()))
    );
    assert_eq!(elsewhere(&answer(403, "AccessDenied", "", &[])), None);
    let odd = answer(301, "", "", &[("x-amz-bucket-region", "a b\"")]);
    assert_eq!(elsewhere(&odd), Some(None), "a region is no place for other characters");
}

#[test]
fn what_a_server_says_is_one_bounded_line() {
    let error = told(400, "Odd", &format!("a\u{1b}[31m\n{}", "x".repeat(9000)));
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.contains('\u{1b}') && text.len() < 800, "{}", text.len());
}

#[test]
fn an_upload_is_known_whatever_the_answer_is_called() {
    let answer = |status: u16, body: &str| {
        HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body.to_owned()))
    };
    let of = |status, body| named_upload(Some(&answer(status, body)));
    let body =
        "<InitiateMultipartUpload><Key>k</Key><UploadId>f8eb-70c3</UploadId></InitiateMultipartUpload>";
    assert_eq!(of(200, body), Some("f8eb-70c3".to_owned()));
    assert_eq!(of(500, body), None);
    assert_eq!(of(200, "<Error/>"), None);
    assert_eq!(of(200, "<UploadId></UploadId>"), None);
    assert_eq!(of(200, "<UploadId>a b&lt;</UploadId>"), None);
    assert_eq!(named_upload(None), None);
}
