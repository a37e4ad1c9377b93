//! Every method, argument, result and error through the boundary and back, compared with the same backend called
//! directly.
#![allow(clippy::unwrap_used)]

mod scripted;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use offsite_plugin_api::*;
use proptest::prelude::*;
use scripted::{Bytes, Scripted, TestHost, call_each, open, open_with, script};
use zeroize::Zeroizing;

fn full_entry() -> Entry {
    Entry {
        path: TargetPath::new(b"a/\xff\xfe b".to_vec()).unwrap(),
        kind: EntryKind::Other,
        size: u64::MAX,
        mtime: Some(Timestamp { ns: i64::MIN, precision_ns: 1_000_000_000 }),
        version: Some("\"etag\"".into()),
        digests: vec![scripted::digest()],
        retention: Some(Retention { mode: "COMPLIANCE".into(), until: -1 }),
        class: Some(String::new()),
        extra: BTreeMap::from([("ключ".into(), "значение".into()), (String::new(), "\0".into())]),
    }
}

fn full_capabilities() -> Capabilities {
    // No `..`: a new field must be tried here too.
    Capabilities {
        durable_checkpoints: true,
        resume: Resume::Parts,
        replace: Replace::Atomic,
        conditional_publish: true,
        staged_readable: true,
        names: NameRules {
            case_sensitive: false,
            normalisation: Normalisation::Nfd,
            longest_name: 143,
            longest_path: 1000,
            refused: "<>:\"|?*\\".into(),
            refused_names: vec!["CON".into()],
            refused_endings: ".".into(),
            utf8_only: true,
        },
        part_sizes: Some(PartSizes { smallest: 5 << 20, largest: 5 << 30, most_parts: 10_000 }),
        mtime_precision_ns: Some(100),
        digests: vec!["md5".into()],
        checked_digests: vec!["crc64nvme".into()],
        copy: true,
        rename: true,
        retention: true,
        streams: Some(7),
        parallel_ranges: u32::MAX,
        largest_file: Some(u64::MAX),
        small_at_publish: u64::MAX,
    }
}

fn fill(url: &str) {
    let script = script(url);
    let mut s = script.lock().unwrap();
    s.capabilities = full_capabilities();
    s.space = Space { total: None, free: Some(3) };
    s.report.server = Some("srv 1.2".into());
    for result in [StepResult::Passed, StepResult::Failed, StepResult::Warned, StepResult::Skipped] {
        s.report.add("step", result, "detail\n");
    }
    s.page = Page {
        entries: vec![full_entry(), Entry::dir(TargetPath::root())],
        next: Some(vec![0, 255]),
        incomplete: vec![(TargetPath::root(), "a line nobody reads".into())],
    };
    s.entry = full_entry();
    let mut info = s.infos[0].clone();
    info.path = Some(TargetPath::new(b"\xf0".to_vec()).unwrap());
    info.age = Some(u64::MAX);
    info.owner = "o".into();
    s.infos.insert(0, info);
}

#[test]
fn every_method_gives_the_same_as_a_direct_call() {
    fill("direct");
    fill("remote");
    let host = Arc::new(TestHost::default());
    let secrets = Secrets(vec![("password".into(), Zeroizing::new("pässword".into()))]);
    let options = serde_json::json!({"a": [1, "ü"]});
    let direct =
        Scripted.open(Opened { url: "direct", options: &options, secrets, host: host.clone() }).unwrap();
    let remote = open_with("remote", &Arc::new(TestHost::default())).unwrap();
    let (direct_sink, remote_sink) = (Arc::new(Bytes::default()), Arc::new(Bytes::default()));
    let direct_results = call_each(&*direct, &Call::unwatched(), &direct_sink);
    let remote_results = call_each(&*remote, &Call::unwatched(), &remote_sink);
    assert_eq!(direct_results, remote_results);
    assert!(remote_results.iter().all(|(_, r)| r.is_ok()), "{remote_results:#?}");
    assert_eq!(direct.identity(), remote.identity());
    for backend in [direct, remote] {
        backend.close(Duration::from_millis(1500));
    }
    let seen = |url: &str| {
        let mut seen = script(url).lock().unwrap().seen.clone();
        // The host asks for the identity once, when it opens; here the direct call asks later.
        seen.retain(|(m, _)| *m != "identity");
        seen
    };
    assert_eq!(seen("direct"), seen("remote"));
    assert_eq!(seen("remote").len(), direct_results.len() + 3, "open, each method, close, drop");
    assert_eq!(*direct_sink.written.lock().unwrap(), *remote_sink.written.lock().unwrap());
    assert_eq!(*direct_sink.checkpoints.lock().unwrap(), *remote_sink.checkpoints.lock().unwrap());
    assert_eq!(*remote_sink.written.lock().unwrap(), b"stagedgot itpoured");
}

#[test]
fn every_capability_arrives() {
    fill("capabilities");
    assert_eq!(open("capabilities").capabilities(&Call::unwatched()).unwrap(), full_capabilities());
}

#[test]
fn a_report_or_capability_of_a_newer_plugin_is_read_with_defaults() {
    let newer = r#"{"durable_checkpoints":true,"resume":"teleport","replace":"later","a_new_one":{"x":1}}"#;
    let read: Capabilities = serde_json::from_str(newer).unwrap();
    assert_eq!(read, Capabilities { durable_checkpoints: true, ..Capabilities::default() });
    let newer = r#"{"steps":[{"name":"n","result":"postponed","detail":"","more":1}],"took":3}"#;
    let read: CheckReport = serde_json::from_str(newer).unwrap();
    assert_eq!(read.steps[0].result, StepResult::Skipped);
}

#[test]
fn every_method_returns_its_error() {
    let error = Error::new(ErrorKind::Throttled, "slow down")
        .with_retry(Retry::After(Duration::from_millis(1500)))
        .with_context("path", "a\nb")
        .with_context("path", "again")
        .with_source("503");
    script("errors").lock().unwrap().error = Some(error.clone());
    for (method, result) in call_each(&*open("errors"), &Call::unwatched(), &Arc::default()) {
        assert_eq!(result.unwrap_err(), error, "{method}");
    }
}

#[test]
fn every_error_kind_arrives_and_unknown_ones_keep_their_name() {
    let backend = open("kinds");
    let unknown = [ErrorKind::from_name("FromTheFuture"), ErrorKind::from_name("")];
    for kind in ErrorKind::ALL.iter().chain(&unknown) {
        for retry in
            [Retry::Never, Retry::Now, Retry::After(Duration::ZERO), Retry::After(Duration::from_secs(3600))]
        {
            let error = Error::new(kind.clone(), "x").with_retry(retry);
            script("kinds").lock().unwrap().error = Some(error.clone());
            assert_eq!(backend.stat(&Call::unwatched(), &TargetPath::root()).unwrap_err(), error);
        }
    }
}

#[test]
fn a_batch_with_a_missing_result_is_an_error_not_a_shift() {
    let backend = open("batch");
    script("batch").lock().unwrap().batch.pop();
    let items = [(TargetPath::new("a").unwrap(), Expect::Any), (TargetPath::new("b").unwrap(), Expect::Any)];
    let error = backend.delete_batch(&Call::unwatched(), &items).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn a_token_that_is_too_long_is_refused() {
    script("long").lock().unwrap().staged.token = Token(vec![1; Token::MAX + 1]);
    let sink = Arc::new(Bytes::default());
    let results = call_each(&*open("long"), &Call::unwatched(), &sink);
    let (_, stage) = results.into_iter().find(|(m, _)| *m == "stage").unwrap();
    assert_eq!(*stage.unwrap_err().kind(), ErrorKind::Corrupt);
}

/// A host's end of a call that notes what it is told.
#[derive(Default)]
struct Notes {
    cancelled: bool,
    panic: bool,
    remaining: Option<Duration>,
    paced: AtomicU64,
    acked: AtomicU64,
    said: Mutex<Vec<String>>,
}

impl CallHost for Notes {
    fn cancelled(&self) -> bool {
        assert!(!self.panic, "the host panics");
        self.cancelled
    }
    fn remaining(&self) -> Option<Duration> {
        assert!(!self.panic, "the host panics");
        self.remaining
    }
    fn pace(&self, bytes: u64) -> bool {
        assert!(!self.panic, "the host panics");
        self.paced.fetch_add(bytes, SeqCst);
        !self.cancelled
    }
    fn acked(&self, bytes: u64) {
        assert!(!self.panic, "the host panics");
        self.acked.fetch_add(bytes, SeqCst);
    }
    fn alive(&self, note: &str) {
        assert!(!self.panic, "the host panics");
        self.said.lock().unwrap().push(note.to_owned());
    }
    fn log(&self, level: Level, message: &str) {
        assert!(!self.panic, "the host panics");
        self.said.lock().unwrap().push(format!("{level:?} {message}"));
    }
}

fn drive(url: &str, host: TestHost, notes: &Arc<Notes>) -> String {
    let backend = open_with(url, &Arc::new(host)).unwrap();
    backend.check(&Call::new(notes.clone())).unwrap().steps.pop().unwrap().detail
}

#[test]
fn the_plugin_reaches_its_host() {
    let notes = Arc::new(Notes { remaining: Some(Duration::from_millis(2)), ..Notes::default() });
    let host = TestHost::default();
    host.state.lock().unwrap().insert("key".into(), vec![0, 255]);
    let detail = drive("callbacks", host, &notes);
    assert_eq!(
        detail,
        "cancelled: false\nremaining: Some(2ms)\npace: Ok(())\nsecret: Ok(\"password geheim ✓\")\n\
         state_get: Ok(Some([0, 255]))\nstate_put: Ok(())\ninvoke: Ok(\"op{}\")"
    );
    assert_eq!((notes.paced.load(SeqCst), notes.acked.load(SeqCst)), (11, 12));
    assert_eq!(*notes.said.lock().unwrap(), ["still here", "Warn look"]);
}

#[test]
fn the_hosts_errors_and_a_cancellation_reach_the_plugin() {
    let notes = Arc::new(Notes { cancelled: true, ..Notes::default() });
    let detail = drive("host errors", TestHost { fail: true, ..TestHost::default() }, &notes);
    assert!(detail.starts_with("cancelled: true\nremaining: None\npace: Err(Cancelled)\n"), "{detail}");
    assert_eq!(detail.matches("Err(\"Locked not now\")").count(), 4, "{detail}");
}

#[test]
fn a_panic_of_the_host_becomes_an_error_in_the_plugin() {
    let notes = Arc::new(Notes { panic: true, ..Notes::default() });
    let detail = drive("host panics", TestHost { panic: true, ..TestHost::default() }, &notes);
    assert!(detail.starts_with("cancelled: true\nremaining: Some(0ns)\npace: Err(Cancelled)\n"), "{detail}");
    assert_eq!(detail.matches("Panicked panicked: the host panics").count(), 4, "{detail}");
}

#[test]
fn errors_of_source_sink_and_session_come_back() {
    struct Failing;
    fn fail<T>() -> Result<T> {
        Err(Error::new(ErrorKind::SourceChanged, "another inode"))
    }
    impl Source for Failing {
        fn size(&self) -> u64 {
            4
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<usize> {
            fail()
        }
    }
    impl Sink for Failing {
        fn write(&self, _: &[u8]) -> Result<()> {
            fail()
        }
    }
    impl Session for Failing {
        fn checkpoint(&self, _: &Token, _: &[Range], _: bool) -> Result<()> {
            fail()
        }
    }
    let backend = open("failing ends");
    let (call, path) = (Call::unwatched(), TargetPath::new("x").unwrap());
    let request = StageRequest {
        path: path.clone(),
        staging: path.clone(),
        attributes: Attributes::default(),
        size: 4,
        streams: 1,
        owner: String::new(),
        resume: None,
    };
    let good: Arc<Bytes> = Arc::new(Bytes::of(b"1234"));
    let outcomes = [
        backend.stage(&call, &request, Arc::new(Failing), good.clone()).map(drop),
        backend.stage(&call, &request, good, Arc::new(Failing)).map(drop),
        backend.get(&call, &path, None, None, Arc::new(Failing)),
    ];
    for outcome in outcomes {
        assert_eq!(outcome.unwrap_err(), fail::<()>().unwrap_err());
    }
}

#[test]
fn metadata_of_the_module_is_that_of_the_section() {
    let metadata = scripted::module().metadata().unwrap();
    assert_eq!((metadata.id.as_str(), metadata.version.as_str()), ("scripted", "9.8.7"));
    assert_eq!(metadata.schemes, [Scheme { name: "scripted".into(), default_port: Some(4711) }]);
    assert_eq!(metadata.abi, abi::ABI_VERSIONS);
    metadata.validate().unwrap();
}

fn any_text() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 0..20).prop_map(|c| c.into_iter().collect())
}

fn any_error() -> impl Strategy<Value = Error> {
    let retry = prop_oneof![
        Just(Retry::Never),
        Just(Retry::Now),
        any::<u64>().prop_map(|ns| Retry::After(Duration::from_nanos(ns)))
    ];
    let context = proptest::collection::vec((any_text(), any_text()), 0..4);
    (any_text(), retry, any_text(), context, proptest::option::of(any_text())).prop_map(
        |(kind, retry, message, context, source)| {
            let mut error = Error::new(ErrorKind::from_name(&kind), message).with_retry(retry);
            for (key, value) in context {
                error = error.with_context(key, value);
            }
            match source {
                Some(source) => error.with_source(source),
                None => error,
            }
        },
    )
}

fn any_path() -> impl Strategy<Value = TargetPath> {
    proptest::collection::vec(any::<u8>(), 0..40).prop_filter_map("not a path", |b| TargetPath::new(b).ok())
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let digests = proptest::collection::vec(
        (any_text(), any::<Vec<u8>>()).prop_map(|(algorithm, value)| Digest { algorithm, value }),
        0..3,
    );
    let mtime = proptest::option::of(any::<(i64, u64)>());
    let retention = proptest::option::of((any_text(), any::<i64>()));
    let texts = (proptest::option::of(any_text()), proptest::option::of(any_text()));
    let extra = proptest::collection::btree_map(any_text(), any_text(), 0..3);
    (any_path(), 0..3, any::<u64>(), mtime, digests, retention, texts, extra).prop_map(
        |(path, kind, size, mtime, digests, retention, (version, class), extra)| Entry {
            path,
            kind: [EntryKind::File, EntryKind::Dir, EntryKind::Other][kind as usize],
            size,
            mtime: mtime.map(|(ns, precision_ns)| Timestamp { ns, precision_ns }),
            version,
            digests,
            retention: retention.map(|(mode, until)| Retention { mode, until }),
            class,
            extra,
        },
    )
}

proptest! {
    #[test]
    fn any_error_survives(error in any_error()) {
        let backend = open("any error");
        script("any error").lock().unwrap().error = Some(error.clone());
        prop_assert_eq!(backend.make_dir(&Call::unwatched(), &TargetPath::root()).unwrap_err(), error);
    }

    #[test]
    fn any_path_and_any_page_survive(path in any_path(), entries in proptest::collection::vec(any_entry(), 0..5),
                                     next in proptest::option::of(any::<Vec<u8>>()),
                                     incomplete in proptest::collection::vec((any_path(), any::<String>()), 0..3), asked in any::<Vec<u8>>()) {
        let backend = open("any page");
        let page = Page { entries, next, incomplete };
        script("any page").lock().unwrap().page = page.clone();
        prop_assert_eq!(backend.list(&Call::unwatched(), &path, false, Some(&asked)).unwrap(), page);
        let (_, seen) = script("any page").lock().unwrap().seen.iter().rfind(|(m, _)| *m == "list").cloned().unwrap();
        prop_assert_eq!(seen, format!("{path:?} false {:?}", Some(&asked)));
    }
}
