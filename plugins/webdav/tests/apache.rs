//! The WebDAV backend keeps every promise of the contract on a real Apache mod_dav, with both logins, without and with TLS.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use offsite_plugin_api::conformance::assert_conforms;
use offsite_plugin_api::*;
use offsite_plugin_webdav::WebDav;
use offsite_tests::proxy::{Direction, Proxy};
use offsite_tests::servers::apache::{Apache, Login, PASSWORD};
use serde_json::{Value, json};

fn secrets(password: &str) -> Secrets {
    Secrets(vec![("password".to_owned(), Zeroizing::new(password.to_owned()))])
}

fn open(url: &str, options: &Value) -> WebDav {
    WebDav::open_at(url, options, &secrets(PASSWORD)).unwrap()
}

#[test]
fn apache_with_basic_login_conforms() {
    let server = Apache::start();
    assert_conforms(&|| Box::new(open(&server.url(Login::Basic), &json!({}))));
}

#[test]
fn apache_with_digest_login_over_tls_conforms() {
    let server = Apache::start();
    let options = json!({ "ca_file": server.ca_file() });
    assert_conforms(&|| Box::new(open(&server.tls_url(Login::Digest), &options)));
}

fn path(text: &str) -> TargetPath {
    TargetPath::new(text).unwrap()
}

struct Zeros(u64);

impl Source for Zeros {
    fn size(&self) -> u64 {
        self.0
    }

    fn read_at(&self, _: u64, buf: &mut [u8]) -> Result<usize> {
        buf.fill(0);
        Ok(buf.len())
    }
}

/// The last checkpoint.
#[derive(Default)]
struct Kept(Mutex<Option<ResumeFrom>>);

impl Session for Kept {
    fn checkpoint(&self, token: &Token, ranges: &[Range], durable: bool) -> Result<()> {
        assert!(!durable, "nothing says that Apache has it on the disk");
        *self.0.lock().unwrap() = Some(ResumeFrom { token: token.clone(), ranges: ranges.to_vec() });
        Ok(())
    }
}

fn request(name: &str, size: u64) -> StageRequest {
    let target = path(name);
    StageRequest {
        staging: target.parent().unwrap().join("offsite-0123abcd-0011223344556677.part").unwrap(),
        path: target,
        attributes: Attributes::default(),
        size,
        streams: 1,
        owner: "0123abcd".into(),
        resume: None,
    }
}

fn stage(dav: &WebDav, call: &Call, name: &str, size: u64) -> Result<Staged> {
    dav.stage(call, &request(name, size), Arc::new(Zeros(size)), Arc::new(Kept::default()))
}

/// Cancels itself a while after it was made.
struct Impatient(Instant);

impl CallHost for Impatient {
    fn cancelled(&self) -> bool {
        self.0.elapsed() > Duration::from_millis(700)
    }
    fn remaining(&self) -> Option<Duration> {
        None
    }
    fn pace(&self, _: u64) -> bool {
        !self.cancelled()
    }
    fn acked(&self, _: u64) {}
    fn alive(&self, _: &str) {}
    fn log(&self, _: Level, _: &str) {}
}

#[test]
fn every_call_to_a_frozen_server_ends_two_seconds_after_its_cancellation() {
    let server = Apache::start();
    let proxy = Proxy::start(server.address());
    let url = server.url_at(proxy.address(), Login::Digest);
    let ready = open(&url, &json!({}));
    let token = stage(&ready, &Call::unwatched(), "a/one.img", 1000).unwrap().token;
    proxy.freeze(true);
    let fresh = open(&url, &json!({}));
    let root = TargetPath::root();
    type Act<'a> = (&'a str, Box<dyn Fn(&Call) -> Result<()> + Send + Sync + 'a>);
    let acts: Vec<Act<'_>> = vec![
        ("capabilities", Box::new(|call| fresh.capabilities(call).map(drop))),
        ("list", Box::new(|call| ready.list(call, &root, true, None).map(drop))),
        ("stat", Box::new(|call| ready.stat(call, &root).map(drop))),
        ("stage", Box::new(|call| stage(&ready, call, "a/two.img", 64 << 20).map(drop))),
        ("stat_staged", Box::new(|call| ready.stat_staged(call, &token).map(drop))),
        ("discard", Box::new(|call| ready.discard(call, &token))),
        ("delete", Box::new(|call| ready.delete(call, &path("a/x"), &Expect::Any))),
        ("rename", Box::new(|call| ready.rename(call, &path("a/x"), &path("y"), &Expect::Absent).map(drop))),
        ("space", Box::new(|call| ready.space(call).map(drop))),
        ("make_dir", Box::new(|call| ready.make_dir(call, &path("d")))),
        ("check", Box::new(|call| ready.check(call).map(drop))),
    ];
    std::thread::scope(|scope| {
        for (name, act) in &acts {
            scope.spawn(move || {
                let start = Instant::now();
                let result = act(&Call::new(Arc::new(Impatient(start))));
                let took = start.elapsed();
                assert_eq!(result.unwrap_err().kind(), &ErrorKind::Cancelled, "{name}");
                assert!(took < Duration::from_millis(2700), "{name} took {took:?}");
            });
        }
    });
}

#[test]
fn an_upload_in_one_piece_that_is_cut_off_leaves_no_file_and_can_be_repeated() {
    let server = Apache::start();
    let proxy = Proxy::start(server.address());
    let dav = open(&server.url_at(proxy.address(), Login::Basic), &json!({ "chunked": "never" }));
    let call = Call::unwatched();
    dav.list(&call, &TargetPath::root(), false, None).unwrap();
    proxy.cut_at(Direction::Up, proxy.count(Direction::Up) + (5 << 20));
    let error = stage(&dav, &call, "set/one.img", 20 << 20).unwrap_err();
    assert_eq!((error.kind(), error.retry()), (&ErrorKind::Interrupted, Retry::Now), "{error}");
    server.tidied();
    assert_eq!(dav.list_staged(&call, &TargetPath::root()).unwrap().len(), 0, "half a file is staged");
    assert_eq!(stage(&dav, &call, "set/one.img", 20 << 20).unwrap().size, 20 << 20);
}

const MIB: u64 = 1 << 20;

/// Bytes that tell where they belong; counts what is read of it.
#[derive(Default)]
struct Counting(u64, AtomicU64);

fn byte(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

impl Source for Counting {
    fn size(&self) -> u64 {
        self.0
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.1.fetch_add(buf.len() as u64, Ordering::SeqCst);
        buf.iter_mut().zip(offset..).for_each(|(b, at)| *b = byte(at));
        Ok(buf.len())
    }
}

fn staged_bytes(server: &Apache) -> Vec<u8> {
    std::fs::read(server.data().join("offsite-0123abcd-0011223344556677.part")).unwrap()
}

fn expected(size: u64) -> Vec<u8> {
    (0..size).map(byte).collect()
}

#[test]
fn a_large_upload_that_is_cut_off_goes_on_with_what_is_missing() {
    let server = Apache::start();
    let proxy = Proxy::start(server.address());
    let dav = open(&server.url_at(proxy.address(), Login::Digest), &json!({}));
    let call = Call::unwatched();
    const SIZE: u64 = 60 * MIB + 4321;
    proxy.cut_at(Direction::Up, 41 * MIB);
    let kept = Arc::new(Kept::default());
    let mut request = StageRequest { streams: 3, ..request("one.img", SIZE) };
    let source = Arc::new(Counting(SIZE, AtomicU64::new(0)));
    let error = dav.stage(&call, &request, source, kept.clone()).unwrap_err();
    assert_eq!(error.retry(), Retry::Now, "{error}");
    // Somebody else takes it up.
    let from = kept.0.lock().unwrap().take().unwrap();
    let held = Ranges::from_list(&from.ranges).total();
    assert!(held > 8 * MIB && held < SIZE, "{held}");
    let other = open(&server.url(Login::Basic), &json!({}));
    assert!(other.stat_staged(&call, &from.token).unwrap().bytes >= held);
    assert_eq!(other.list_staged(&call, &TargetPath::root()).unwrap().len(), 1);
    request.resume = Some(from.clone());
    let source = Arc::new(Counting(SIZE, AtomicU64::new(0)));
    let staged = other.stage(&call, &request, source.clone(), kept).unwrap();
    assert_eq!(staged.size, SIZE);
    assert_eq!(source.1.load(Ordering::SeqCst), SIZE - held, "only the rest is read");
    assert!(staged_bytes(&server) == expected(SIZE), "the file is not what was sent");
    // The token of a part is none of the whole.
    let publish = PublishRequest {
        token: from.token,
        path: path("one.img"),
        expect: Expect::Absent,
        attributes: Attributes::default(),
        digests: Vec::new(),
        size: SIZE,
        source: Arc::new(Zeros(SIZE)),
    };
    assert_eq!(other.publish(&call, &publish).unwrap_err().kind(), &ErrorKind::StaleToken);
    let token = staged.token;
    assert_eq!(other.publish(&call, &PublishRequest { token, ..publish }).unwrap().size, SIZE);
}

/// All streams of the second attempt find at once that the login has to be asked for anew.
#[test]
fn the_first_retry_after_a_broken_line_succeeds_with_many_streams_and_digest() {
    let server = Apache::start();
    let proxy = Proxy::start(server.address());
    let dav = open(&server.url_at(proxy.address(), Login::Digest), &json!({}));
    let call = Call::unwatched();
    const SIZE: u64 = 80 * MIB;
    let source = || Arc::new(Counting(SIZE, AtomicU64::new(0)));
    let mut request = StageRequest { streams: 8, ..request("one.img", SIZE) };
    let kept = Arc::new(Kept::default());
    for cut in [30 * MIB, 55 * MIB] {
        proxy.cut_at(Direction::Up, cut);
        let error = dav.stage(&call, &request, source(), kept.clone()).unwrap_err();
        assert!(!error.to_string().contains("login"), "{error}");
        request.resume = kept.0.lock().unwrap().clone();
    }
    dav.stage(&call, &request, source(), kept).unwrap();
    assert!(staged_bytes(&server) == expected(SIZE));
}

#[test]
fn a_staging_that_vanishes_under_way_is_begun_again_and_never_has_holes() {
    struct Vanishing(Counting, std::path::PathBuf);
    impl Source for Vanishing {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
            if (20 * MIB..21 * MIB).contains(&offset) {
                let _ = std::fs::remove_file(&self.1);
            }
            self.0.read_at(offset, buf)
        }
    }
    let server = Apache::start();
    let dav = open(&server.url(Login::Basic), &json!({}));
    let call = Call::unwatched();
    let request = request("one.img", 40 * MIB);
    let file = server.data().join(request.staging.display().as_ref());
    let source = Vanishing(Counting(request.size, AtomicU64::new(0)), file.clone());
    let error = dav.stage(&call, &request, Arc::new(source), Arc::new(Kept::default())).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::StaleToken, "{error}");
    assert!(!file.exists(), "a range made the file anew");
}

#[test]
fn a_server_that_drops_or_refuses_ranges_gets_whole_files_and_the_check_says_so() {
    let mut server = Apache::start();
    let text = std::fs::read_to_string(server.conf()).unwrap();
    for line in
        ["RequestHeader unset Content-Range early", "<If \"-n req('Content-Range')\">\nRedirect 400 /\n</If>"]
    {
        std::fs::write(server.conf(), format!("{text}\n{line}\n")).unwrap();
        server.restart();
        let dav = open(&server.url(Login::Basic), &json!({}));
        let call = Call::unwatched();
        const SIZE: u64 = 30 * MIB;
        let source = Arc::new(Counting(SIZE, AtomicU64::new(0)));
        let staged = dav.stage(&call, &request("one.img", SIZE), source, Arc::new(Kept::default())).unwrap();
        assert_eq!(staged.size, SIZE);
        assert!(staged_bytes(&server) == expected(SIZE), "{line}");
        let report = open(&server.url(Login::Basic), &json!({})).check(&call).unwrap();
        let step = report.steps.iter().find(|step| step.name == "resume").unwrap();
        assert_eq!(step.result, StepResult::Warned, "{line}: {}", step.detail);
        assert!(report.passed(), "{line}");
    }
}

#[test]
fn a_server_that_drops_ranges_since_yesterday_costs_one_attempt() {
    let mut server = Apache::start();
    let proxy = Proxy::start(server.address());
    let call = Call::unwatched();
    const SIZE: u64 = 60 * MIB;
    let source = || Arc::new(Counting(SIZE, AtomicU64::new(0)));
    let (kept, mut request) = (Arc::new(Kept::default()), request("one.img", SIZE));
    proxy.cut_at(Direction::Up, 41 * MIB);
    open(&server.url_at(proxy.address(), Login::Basic), &json!({}))
        .stage(&call, &request, source(), kept.clone())
        .unwrap_err();
    request.resume = kept.0.lock().unwrap().take();
    assert!(request.resume.is_some());
    let text = std::fs::read_to_string(server.conf()).unwrap();
    std::fs::write(server.conf(), format!("{text}\nRequestHeader unset Content-Range early\n")).unwrap();
    server.restart();
    let dav = open(&server.url(Login::Basic), &json!({}));
    let error = dav.stage(&call, &request, source(), kept.clone()).unwrap_err();
    assert_eq!(error.retry(), Retry::Now, "{error}");
    request.resume = None;
    dav.stage(&call, &request, source(), kept).unwrap();
    assert!(staged_bytes(&server) == expected(SIZE));
}

#[test]
fn a_limit_for_requests_above_one_part_stops_no_file() {
    let server = Apache::with_lines(&["LimitRequestBody 3000000"]);
    let dav = open(&server.url(Login::Basic), &json!({}));
    // In ranges from the start, and after the whole was refused.
    for size in [30 * MIB, 10 * MIB] {
        let request = StageRequest { streams: 2, ..request("one.img", size) };
        let source = Arc::new(Counting(size, AtomicU64::new(0)));
        dav.stage(&Call::unwatched(), &request, source, Arc::new(Kept::default())).unwrap();
        assert!(staged_bytes(&server) == expected(size), "{size}");
    }
}

/// The server behind knows itself by `http:`, and refuses a `Destination` that says `https:` (RFC 4918 §9.9.4).
#[test]
fn a_server_behind_a_proxy_that_ends_tls_moves_files_all_the_same() {
    let server = Apache::start();
    let proxy = Apache::in_front_of(server.address());
    let url = server.url_at(proxy.tls_address(), Login::None).replacen("http", "https", 1);
    let options = json!({ "ca_file": proxy.ca_file() });
    let dav = WebDav::open_at(&url, &options, &Secrets::default()).unwrap();
    let call = Call::unwatched();
    for name in ["one.img", "two.img"] {
        let token = stage(&dav, &call, name, 1000).unwrap().token;
        let publish = PublishRequest {
            token,
            path: path(name),
            expect: Expect::Absent,
            attributes: Attributes::default(),
            digests: Vec::new(),
            size: 1000,
            source: Arc::new(Zeros(1000)),
        };
        assert_eq!(dav.publish(&call, &publish).unwrap().size, 1000);
        assert!(server.data().join(name).is_file());
    }
}

#[test]
fn a_restarted_server_with_new_nonces_is_logged_in_to_again() {
    let mut server = Apache::start();
    let dav = open(&server.url(Login::Digest), &json!({}));
    let call = Call::unwatched();
    stage(&dav, &call, "one.img", 100_000).unwrap();
    server.restart();
    let outcome = stage(&dav, &call, "two.img", 100_000);
    if let Err(error) = &outcome {
        assert_eq!(error.retry(), Retry::Now, "{error}");
        stage(&dav, &call, "two.img", 100_000).unwrap();
    }
    // What asks nothing of the server but to be read renews the login by itself.
    server.restart();
    dav.list(&call, &TargetPath::root(), false, None).unwrap();
}

#[test]
fn whom_to_trust_is_the_users_choice_and_a_refusal_names_it() {
    let server = Apache::start();
    let url = server.tls_url(Login::Basic);
    let failed =
        |options: &Value| open(&url, options).stat(&Call::unwatched(), &TargetPath::root()).unwrap_err();
    let unknown = failed(&json!({}));
    assert_eq!(unknown.kind(), &ErrorKind::UntrustedPeer);
    assert!(unknown.to_string().contains("ca_file"), "{unknown}");
    let other = "00".repeat(32);
    let pinned = failed(&json!({ "certificate_sha256": other }));
    assert_eq!(pinned.kind(), &ErrorKind::UntrustedPeer);
    assert!(pinned.to_string().contains("certificate_sha256"), "{pinned}");
    for options in
        [json!({ "certificate_sha256": server.fingerprint() }), json!({ "ca_file": server.ca_file() })]
    {
        open(&url, &options).stat(&Call::unwatched(), &TargetPath::root()).unwrap();
    }
    let missing = WebDav::open_at(&url, &json!({ "ca_file": "/nowhere.pem" }), &secrets("x")).err().unwrap();
    assert_eq!(missing.kind(), &ErrorKind::InvalidConfig);
    // TLS spoken to a server that does not.
    let wrong = server.url(Login::Basic).replacen("http", "https", 1);
    let error = open(&wrong, &json!({})).stat(&Call::unwatched(), &TargetPath::root()).unwrap_err();
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
}

#[test]
fn the_mistakes_of_a_new_user_are_named() {
    let server = Apache::start();
    let call = Call::unwatched();
    let failing = |url: &str, password: &str| {
        let dav = WebDav::open_at(
            url,
            &json!({}),
            &if password.is_empty() { Secrets::default() } else { secrets(password) },
        );
        let report = dav.unwrap().check(&call).unwrap();
        let step = report.steps.into_iter().find(|s| s.result == StepResult::Failed).unwrap();
        assert!(!step.detail.contains(PASSWORD), "{}", step.detail);
        (step.name, step.detail)
    };
    let expect = |(name, detail): (String, String), step: &str, words: &str| {
        assert_eq!(name, step, "{detail}");
        assert!(detail.contains(words), "'{words}' is not in: {detail}");
    };
    for login in [Login::Basic, Login::Digest] {
        expect(failing(&server.url(login), "wrong"), "authenticate", "refuses user or password");
        expect(
            failing(&server.url(login).replace("J%C3%BCrgen@", ""), ""),
            "authenticate",
            "asks for a login",
        );
    }
    expect(failing("http://no-such-host.invalid/dav", ""), "reach", "host name is not known");
    expect(failing("http://127.0.0.1:9/dav", ""), "reach", "nothing listens");
    expect(
        failing(&format!("{}no/such/folder", server.url(Login::Basic)), PASSWORD),
        "folder",
        "nor its parent exists",
    );
    let open_to_all = WebDav::open_at(&server.url(Login::None), &json!({}), &Secrets::default()).unwrap();
    assert!(open_to_all.check(&call).unwrap().passed());
}

#[test]
fn a_server_that_limits_requests_says_so_before_everything_is_sent() {
    let server = Apache::with_lines(&["LimitRequestBody 1000000"]);
    let proxy = Proxy::start(server.address());
    let dav = open(&server.url_at(proxy.address(), Login::Basic), &json!({}));
    let error = stage(&dav, &Call::unwatched(), "large.img", 200 << 20).unwrap_err();
    assert_eq!((error.kind(), error.retry()), (&ErrorKind::TooLarge, Retry::Never), "{error}");
    assert!(error.to_string().contains("LimitRequestBody"), "{error}");
    assert!(proxy.count(Direction::Up) < 200 << 20, "all of it was sent");
}

#[test]
fn a_folder_open_for_reading_only_gets_no_body_without_a_login() {
    // Reading needs no login, writing does: common for public shares.
    let server = Apache::with_lines(&[]);
    let text = std::fs::read_to_string(server.conf()).unwrap();
    let basic = text.replace(
        "Require valid-user",
        "<LimitExcept GET HEAD OPTIONS PROPFIND>\nRequire valid-user\n</LimitExcept>",
    );
    std::fs::write(server.conf(), basic).unwrap();
    let mut server = server;
    server.restart();
    for login in [Login::Basic, Login::Digest] {
        let dav = open(&server.url(login), &json!({}));
        assert_eq!(stage(&dav, &Call::unwatched(), "one.img", 300_000).unwrap().size, 300_000);
    }
}

/// What is missing has a reason: WebDAV's servers replace no file in one act (mod_dav deletes the old one first), a COPY shows itself half done, times cannot be set, and nothing says that a file is on the disk.
#[test]
fn apaches_capabilities_are_these() {
    let server = Apache::start();
    let found = open(&server.url(Login::Basic), &json!({})).capabilities(&Call::unwatched()).unwrap();
    let expected = Capabilities {
        resume: Resume::Ranges,
        parallel_ranges: 8,
        staged_readable: true,
        rename: true,
        names: NameRules { utf8_only: true, longest_path: 2048, ..NameRules::default() },
        ..Capabilities::default()
    };
    assert_eq!(found, expected);
}
