//! The WebDAV backend keeps every promise of the contract on a real Apache mod_dav, with both logins, without and with TLS.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
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

struct Nobody;

impl Session for Nobody {
    fn checkpoint(&self, _: &Token, _: &[Range], _: bool) -> Result<()> {
        Ok(())
    }
}

fn stage(dav: &WebDav, call: &Call, name: &str, size: u64) -> Result<Staged> {
    let target = path(name);
    let request = StageRequest {
        staging: target.parent().unwrap().join("offsite-0123abcd-0011223344556677.part")?,
        path: target,
        attributes: Attributes::default(),
        size,
        streams: 1,
        owner: "0123abcd".into(),
        resume: None,
    };
    dav.stage(call, &request, Arc::new(Zeros(size)), Arc::new(Nobody))
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
fn an_upload_cut_off_leaves_no_file_and_can_be_repeated() {
    let server = Apache::start();
    let proxy = Proxy::start(server.address());
    let dav = open(&server.url_at(proxy.address(), Login::Basic), &json!({}));
    let call = Call::unwatched();
    dav.list(&call, &TargetPath::root(), false, None).unwrap();
    proxy.cut_at(Direction::Up, proxy.count(Direction::Up) + (5 << 20));
    let error = stage(&dav, &call, "set/one.img", 20 << 20).unwrap_err();
    assert_eq!((error.kind(), error.retry()), (&ErrorKind::Interrupted, Retry::Now), "{error}");
    server.tidied();
    assert_eq!(dav.list_staged(&call, &TargetPath::root()).unwrap().len(), 0, "half a file is staged");
    assert_eq!(stage(&dav, &call, "set/one.img", 20 << 20).unwrap().size, 20 << 20);
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

/// What is missing has a reason: WebDAV has no resumable PUT, its servers replace no file in one act (mod_dav deletes the old
/// one first), a COPY shows itself half done, times cannot be set, and nothing says that a file is on the disk.
#[test]
fn apaches_capabilities_are_these() {
    let server = Apache::start();
    let found = open(&server.url(Login::Basic), &json!({})).capabilities(&Call::unwatched()).unwrap();
    let expected = Capabilities {
        staged_readable: true,
        rename: true,
        names: NameRules { utf8_only: true, longest_path: 2048, ..NameRules::default() },
        ..Capabilities::default()
    };
    assert_eq!(found, expected);
}
