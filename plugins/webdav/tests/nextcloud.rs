//! Chunked uploads, against a double of Nextcloud (which says what it is): nothing that can be installed here speaks the
//! protocol.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use offsite_plugin_api::conformance::assert_conforms;
use offsite_plugin_api::*;
use offsite_plugin_webdav::WebDav;
use offsite_tests::servers::nextcloud::{Nextcloud, PASSWORD};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

fn open(server: &Nextcloud, options: &Value) -> WebDav {
    let secrets = Secrets(vec![("password".to_owned(), Zeroizing::new(PASSWORD.to_owned()))]);
    WebDav::open_at(&server.url(), options, &secrets).unwrap()
}

fn path(text: &str) -> TargetPath {
    TargetPath::new(text).unwrap()
}

fn request(size: u64, resume: Option<ResumeFrom>) -> StageRequest {
    StageRequest {
        path: path("set/disk.img"),
        staging: path("set/offsite-0123abcd-0011223344556677.part"),
        attributes: Attributes {
            mtime: Some(Timestamp { ns: 1_500_000_000_500_000_000, precision_ns: 1 }),
            ..Attributes::default()
        },
        size,
        streams: 3,
        owner: "0123abcd".into(),
        resume,
    }
}

fn publish(token: &Token, source: &Arc<Data>) -> PublishRequest {
    PublishRequest {
        token: token.clone(),
        path: path("set/disk.img"),
        expect: Expect::Absent,
        attributes: request(0, None).attributes,
        digests: Vec::new(),
        size: source.size(),
        source: source.clone(),
    }
}

/// Fails with an interruption once `fails_at` is read.
struct Data {
    size: u64,
    fails_at: u64,
    read: Mutex<Vec<Range>>,
}

impl Data {
    fn new(size: u64, fails_at: u64) -> Arc<Self> {
        Arc::new(Self { size, fails_at, read: Mutex::default() })
    }

    fn byte(at: u64) -> u8 {
        (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
    }

    fn content(&self) -> Vec<u8> {
        (0..self.size).map(Self::byte).collect()
    }
}

impl Source for Data {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if offset + buf.len() as u64 > self.fails_at {
            return Err(Error::new(ErrorKind::Interrupted, "enough"));
        }
        let length = (self.size - offset).min(buf.len() as u64);
        for (at, byte) in buf.iter_mut().enumerate().take(length as usize) {
            *byte = Self::byte(offset + at as u64);
        }
        self.read.lock().unwrap().push(Range { offset, length });
        Ok(length as usize)
    }
}

#[derive(Default)]
struct Journal(Mutex<Option<ResumeFrom>>);

impl Session for Journal {
    fn checkpoint(&self, token: &Token, ranges: &[Range], durable: bool) -> Result<()> {
        assert!(!durable, "the server does not promise that");
        *self.0.lock().unwrap() = Some(ResumeFrom { token: token.clone(), ranges: ranges.to_vec() });
        Ok(())
    }
}

#[test]
fn the_double_of_nextcloud_conforms() {
    let server = Nextcloud::start();
    assert_conforms(&|| Box::new(open(&server, &json!({ "chunk_size_mib": 8 }))));
    assert_eq!(server.uploads().len(), 0, "chunks are left");
}

/// All targets of an account share one place for chunks, and two may well hold files of the same name.
#[test]
fn targets_of_one_account_leave_each_others_chunks_alone() {
    let server = Nextcloud::start();
    let (call, size, options) = (Call::unwatched(), 23 * MIB, json!({ "chunk_size_mib": 5 }));
    let secrets = || Secrets(vec![("password".to_owned(), Zeroizing::new(PASSWORD.to_owned()))]);
    let at = |folder: &str| {
        let dav = WebDav::open_at(&format!("{}{folder}", server.url()), &options, &secrets()).unwrap();
        dav.make_dir(&call, &TargetPath::root()).unwrap();
        dav
    };
    let (one, other) = (at("one"), at("other"));
    let journal = Arc::new(Journal::default());
    let first = StageRequest { streams: 1, ..request(size, None) };
    one.stage(&call, &first, Data::new(size, 12 * MIB), journal.clone()).unwrap_err();
    let from = journal.0.lock().unwrap().clone().unwrap();
    assert_eq!(one.list_staged(&call, &TargetPath::root()).unwrap().len(), 1);
    assert_eq!(other.list_staged(&call, &TargetPath::root()).unwrap().len(), 0);
    assert_eq!(other.stat_staged(&call, &from.token).unwrap_err().kind(), &ErrorKind::StaleToken);
    assert_eq!(other.discard(&call, &from.token).unwrap_err().kind(), &ErrorKind::StaleToken);
    // The same name, staged beside it.
    let data = Data::new(size, u64::MAX);
    other.stage(&call, &request(size, None), data.clone(), Arc::new(Journal::default())).unwrap();
    let rest = Data::new(size, u64::MAX);
    one.stage(&call, &request(size, Some(from)), rest.clone(), journal).unwrap();
    let sent: u64 = rest.read.lock().unwrap().iter().map(|r| r.length).sum();
    assert!(sent < size, "what was there is sent again");
    for folder in ["one", "other"] {
        let staged = server.data().join(folder).join("set/offsite-0123abcd-0011223344556677.part");
        assert!(std::fs::read(staged).unwrap() == data.content(), "{folder}");
    }
}

#[test]
fn small_files_go_in_one_put_and_keep_their_time() {
    let server = Nextcloud::start();
    let (dav, call, data) = (open(&server, &json!({})), Call::unwatched(), Data::new(100_000, u64::MAX));
    let staged =
        dav.stage(&call, &request(100_000, None), data.clone(), Arc::new(Journal::default())).unwrap();
    let entry = dav.publish(&call, &publish(&staged.token, &data)).unwrap();
    assert_eq!(entry.mtime.unwrap().ns, 1_500_000_000_000_000_000);
    assert!(!server.seen().iter().any(|r| r.contains("/uploads/")), "{:?}", server.seen());
    assert_eq!(std::fs::read(server.data().join("set/disk.img")).unwrap(), data.content());
}

#[test]
fn an_interrupted_upload_sends_only_the_chunks_that_are_not_there() {
    let server = Nextcloud::start();
    let (call, size, options) = (Call::unwatched(), 53 * MIB + 7, json!({ "chunk_size_mib": 5 }));
    let journal = Arc::new(Journal::default());
    let first = Data::new(size, 33 * MIB);
    let failed =
        open(&server, &options).stage(&call, &request(size, None), first, journal.clone()).unwrap_err();
    assert_eq!(failed.kind(), &ErrorKind::Interrupted);
    let from = journal.0.lock().unwrap().clone().unwrap();
    let held: u64 = from.ranges.iter().map(|r| r.length).sum();
    assert!(held >= 15 * MIB, "{held}");
    assert!(!server.data().join("set/disk.img").exists());

    // Another process, with another chunk size configured meanwhile: the upload keeps its own.
    let other = open(&server, &json!({ "chunk_size_mib": 20 }));
    assert_eq!(other.stat_staged(&call, &from.token).unwrap().bytes, held);
    let listed = other.list_staged(&call, &TargetPath::root()).unwrap();
    assert_eq!((listed.len(), listed[0].owner.as_str(), &listed[0].token), (1, "0123abcd", &from.token));
    let unreadable = other.read_staged(&call, &from.token, from.ranges[0], Arc::new(Nothing));
    assert_eq!(unreadable.unwrap_err().kind(), &ErrorKind::Unsupported);
    let before = server.received();
    let second = Data::new(size, u64::MAX);
    let staged = other.stage(&call, &request(size, Some(from)), second.clone(), journal).unwrap();
    assert_eq!(server.received() - before, size - held);
    other.publish(&call, &publish(&staged.token, &second)).unwrap();
    assert!(std::fs::read(server.data().join("set/disk.img")).unwrap() == second.content());
    assert_eq!(server.uploads().len(), 0);
}

struct Nothing;

impl Sink for Nothing {
    fn write(&self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

#[test]
fn chunks_that_the_server_dropped_are_a_stale_token() {
    let server = Nextcloud::start();
    let (call, size) = (Call::unwatched(), 20 * MIB);
    let options = json!({ "chunk_size_mib": 5 });
    let journal = Arc::new(Journal::default());
    let _ = open(&server, &options).stage(
        &call,
        &request(size, None),
        Data::new(size, 17 * MIB),
        journal.clone(),
    );
    for folder in server.uploads() {
        std::fs::remove_dir_all(folder).unwrap();
    }
    let from = journal.0.lock().unwrap().clone();
    assert!(from.is_some(), "no checkpoint");
    let result =
        open(&server, &options).stage(&call, &request(size, from), Data::new(size, u64::MAX), journal);
    assert_eq!(result.unwrap_err().kind(), &ErrorKind::StaleToken);
}

#[test]
fn a_server_that_still_merges_when_its_gateway_gave_up_is_waited_for() {
    let server = Nextcloud::start();
    server.merge_behind_a_gateway(Duration::from_millis(1500));
    let (call, size) = (Call::unwatched(), 12 * MIB);
    let (dav, data) = (open(&server, &json!({ "chunk_size_mib": 5 })), Data::new(size, u64::MAX));
    let staged = dav.stage(&call, &request(size, None), data.clone(), Arc::new(Journal::default())).unwrap();
    assert_eq!(staged.size, size);
    dav.publish(&call, &publish(&staged.token, &data)).unwrap();
}

#[test]
fn a_refused_put_says_what_and_whether_to_try_again() {
    let server = Nextcloud::start();
    let (dav, call) = (open(&server, &json!({})), Call::unwatched());
    let secs = Duration::from_secs;
    for (status, headers, kind, retry) in [
        (507, "", ErrorKind::NoSpace, Retry::Never),
        (413, "", ErrorKind::TooLarge, Retry::Never),
        (423, "", ErrorKind::Locked, Retry::Now),
        (429, "Retry-After: 7\r\n", ErrorKind::Throttled, Retry::After(secs(7))),
        (503, "Retry-After: 120\r\n", ErrorKind::Busy, Retry::After(secs(120))),
        (301, "Location: https://elsewhere.example/x\r\n", ErrorKind::InvalidConfig, Retry::Never),
        (401, "WWW-Authenticate: Basic realm=\"Nextcloud\"\r\n", ErrorKind::Unauthenticated, Retry::Never),
    ] {
        server.answer_next("PUT", status, headers);
        let data = Data::new(300_000, u64::MAX);
        let error =
            dav.stage(&call, &request(300_000, None), data, Arc::new(Journal::default())).unwrap_err();
        assert_eq!((error.kind(), error.retry()), (&kind, retry), "{status}: {error}");
        assert!(!error.to_string().contains("wörd"), "{error}");
    }
}

#[test]
fn a_lost_answer_to_the_move_does_not_hide_its_success() {
    let server = Nextcloud::start();
    let (dav, call, data) = (open(&server, &json!({})), Call::unwatched(), Data::new(1000, u64::MAX));
    let staged = dav.stage(&call, &request(1000, None), data.clone(), Arc::new(Journal::default())).unwrap();
    let at = server.data().join("set");
    // Done by the server, but its answer is a gateway's.
    std::fs::rename(at.join("offsite-0123abcd-0011223344556677.part"), at.join("disk.img")).unwrap();
    server.answer_next("MOVE", 502, "");
    assert_eq!(dav.publish(&call, &publish(&staged.token, &data)).unwrap().size, 1000);
    assert_eq!(dav.publish(&call, &publish(&staged.token, &data)).unwrap().size, 1000);
}

#[test]
fn a_redirect_to_another_place_is_not_followed_and_named() {
    let server = Nextcloud::start();
    let (dav, call) = (open(&server, &json!({})), Call::unwatched());
    dav.list(&call, &TargetPath::root(), false, None).unwrap();
    let seen = server.seen().len();
    server.answer_next("PROPFIND", 301, "Location: http://127.0.0.1:9/remote.php/\r\n");
    let error = dav.list(&call, &TargetPath::root(), false, None).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("http://127.0.0.1:9/remote.php/"), "{error}");
    assert_eq!(server.seen().len(), seen + 1);
}

#[test]
fn a_wrong_password_fails_the_check_by_name_and_sends_no_body() {
    let server = Nextcloud::start();
    let secrets = Secrets(vec![("password".to_owned(), Zeroizing::new("hunter2".to_owned()))]);
    let dav = WebDav::open_at(&server.url(), &json!({}), &secrets).unwrap();
    let report = dav.check(&Call::unwatched()).unwrap();
    let step = |name: &str| {
        report.steps.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("{report:?}")).clone()
    };
    assert_eq!((step("reach").result, step("authenticate").result), (StepResult::Passed, StepResult::Failed));
    assert_eq!(step("write").result, StepResult::Skipped);
    assert!(!format!("{report:?}").contains("hunter2"));
    let data = Data::new(300_000, u64::MAX);
    let error = dav
        .stage(&Call::unwatched(), &request(300_000, None), data, Arc::new(Journal::default()))
        .unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unauthenticated);
    assert_eq!(server.received(), 0);
}

/// As Apache's, and chunks: parts that are resumed, eight at once; and a time of whole seconds.
#[test]
fn nextclouds_capabilities_are_these() {
    let server = Nextcloud::start();
    let capabilities = |options: Value| open(&server, &options).capabilities(&Call::unwatched()).unwrap();
    let names = NameRules {
        utf8_only: true,
        longest_path: 2048,
        longest_name: 250,
        refused: "\\".to_owned(),
        ..NameRules::default()
    };
    let plain = Capabilities {
        staged_readable: true,
        rename: true,
        mtime_precision_ns: Some(1_000_000_000),
        names,
        ..Capabilities::default()
    };
    assert_eq!(capabilities(json!({ "chunked": "never" })), plain);
    let part_sizes = Some(PartSizes { smallest: 5 << 20, largest: 5 << 30, most_parts: 10_000 });
    let chunked = Capabilities { resume: Resume::Parts, part_sizes, parallel_ranges: 8, ..plain };
    assert_eq!(capabilities(json!({})), chunked);
}
