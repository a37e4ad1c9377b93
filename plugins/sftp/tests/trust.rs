//! Who is let in, and which server is believed.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::process::Command;

use common::{Place, path};
use offsite_plugin_api::*;
use offsite_tests::servers::account;
use offsite_tests::servers::sshd::{Settings, Sshd};
use serde_json::{Value, json};

fn list(backend: Result<Box<dyn Backend>>) -> Result<Page> {
    backend?.list(&Call::unwatched(), &TargetPath::root(), false, None)
}

#[track_caller]
fn refused(result: Result<Page>, kind: ErrorKind, words: &[&str]) -> String {
    let error = result.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), &kind, "{text}");
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
    text
}

#[test]
fn a_password_logs_in_by_both_methods_and_a_wrong_one_is_named() {
    let right = account::account();
    for interactive_only in [false, true] {
        let settings = Settings {
            account: Some(right.clone()),
            passwords: true,
            interactive_only,
            ..Settings::default()
        };
        let place = Place::of(Sshd::with(settings));
        let (url, known) = (place.server.url(), json!({"known_hosts": place.server.known_hosts()}));
        list(place.open_with(&url, known.clone(), &[("password", &right.password)])).unwrap();
        let wrong = list(place.open_with(&url, known.clone(), &[("password", "wrong-hunter2")]));
        let text = refused(wrong, ErrorKind::Unauthenticated, &[&right.name, "tried: password"]);
        assert!(!text.contains("hunter2") && !text.contains(&right.password), "{text}");
        let nobody = url.replace(&right.name, "nobody-at-all");
        let nobody = list(place.open_with(&nobody, known, &[("password", &right.password)]));
        refused(nobody, ErrorKind::Unauthenticated, &["nobody-at-all"]);
    }
}

#[test]
fn keys_of_every_kind_and_form_log_in() {
    let place = Place::of(Sshd::start());
    let known = place.server.known_hosts();
    for (kind, passphrase, form) in [
        ("ed25519", "", &[][..]),
        ("ed25519", "correct horse", &[]),
        ("ecdsa", "", &[]),
        ("ecdsa", "", &["-m", "PEM"]),
        ("rsa", "", &[]),
        ("rsa", "", &["-m", "PEM"]),
        ("rsa", "correct horse", &["-m", "PEM"]),
        ("rsa", "correct horse", &["-m", "PKCS8"]),
    ] {
        let key = place.server.another_key(kind, passphrase, form);
        let what = format!("{kind} {form:?} passphrase '{passphrase}'");
        let secrets = [("passphrase", passphrase)];
        let by_file = json!({"known_hosts": known, "key_file": key, "auth": "key"});
        list(place.open_with(&place.server.url(), by_file, &secrets))
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        let text = fs::read_to_string(&key).unwrap();
        let secrets = [("passphrase", passphrase), ("key", &text)];
        let by_text = json!({"known_hosts": known});
        list(place.open_with(&place.server.url(), by_text, &secrets))
            .unwrap_or_else(|e| panic!("{what}: {e}"));
    }
}

#[test]
fn a_key_that_cannot_be_used_says_why() {
    let place = Place::of(Sshd::start());
    let (url, known) = (place.server.url(), place.server.known_hosts());
    let with = |key: &Value, secrets: &[(&str, &str)]| {
        list(place.open_with(&url, json!({"known_hosts": known, "key_file": key}), secrets))
    };
    let locked = json!(place.server.another_key("ed25519", "right", &[]));
    refused(with(&locked, &[]), ErrorKind::InvalidConfig, &["passphrase"]);
    refused(
        with(&locked, &[("passphrase", "wrong")]),
        ErrorKind::InvalidConfig,
        &["passphrase may be wrong"],
    );
    let public = json!(place.server.key().with_extension("pub"));
    refused(with(&public, &[]), ErrorKind::InvalidConfig, &["public half"]);
    refused(with(&json!("/no/such/key"), &[]), ErrorKind::InvalidConfig, &["/no/such/key"]);
    let dir = tempfile::tempdir().unwrap();
    let stranger = dir.path().join("stranger");
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&stranger).status();
    assert!(made.unwrap().success());
    refused(with(&json!(stranger), &[]), ErrorKind::Unauthenticated, &["authorized_keys"]);
}

/// An agent of the test's own; ended with it.
struct Agent {
    child: std::process::Child,
    socket: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Agent {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent");
        let child = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).spawn().unwrap();
        for _ in 0..100 {
            if socket.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Self { child, socket, _dir: dir }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The agent's place is in the environment, which tests in one process share: so this one runs itself anew.
#[test]
fn the_agent_logs_in() {
    const CHILD: &str = "OFFSITE_TEST_AGENT_CHILD";
    let place = Place::of(Sshd::start());
    if let Ok(given) = std::env::var(CHILD) {
        let [url, known] = given.split('|').collect::<Vec<_>>()[..] else { panic!("{given}") };
        list(place.open_with(url, json!({"known_hosts": known}), &[])).unwrap();
        return;
    }
    let agent = Agent::start();
    let add = |key: &std::path::Path| {
        let added = Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &agent.socket).status();
        assert!(added.unwrap().success());
    };
    // One that the server does not know, then one that it does.
    let stranger = agent.socket.with_file_name("stranger");
    Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&stranger).status().unwrap();
    add(&stranger);
    add(&place.server.key());
    let given = format!("{}|{}", place.server.url(), place.server.known_hosts().display());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_agent_logs_in", "--nocapture"])
        .env(CHILD, given)
        .env("SSH_AUTH_SOCK", &agent.socket)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
fn an_unknown_host_key_is_refused_with_its_fingerprint() {
    let place = Place::of(Sshd::start());
    let mut options = place.options();
    options["known_hosts"] = json!("/no/such/file");
    let prints = ["ed25519", "ecdsa"].map(|kind| place.server.fingerprint(kind));
    let text = refused(
        list(place.open_with(&place.server.url(), options, &[])),
        ErrorKind::UntrustedPeer,
        &["is not known", "accept-new"],
    );
    assert!(prints.iter().any(|p| text.contains(p)), "{text}");
}

#[test]
fn a_changed_host_key_is_refused_with_both_fingerprints() {
    let (place, other) = (Place::of(Sshd::start()), Sshd::start());
    let line = format!("[127.0.0.1]:{} {}\n", place.server.port(), other.public_host_key("ed25519"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("known");
    fs::write(&file, line).unwrap();
    for mode in ["strict", "accept-new"] {
        let options = json!({"key_file": place.server.key(), "known_hosts": file, "host_key": mode});
        refused(
            list(place.open_with(&place.server.url(), options, &[])),
            ErrorKind::UntrustedPeer,
            &["has changed", &other.fingerprint("ed25519"), &place.server.fingerprint("ed25519")],
        );
    }
}

#[test]
fn a_host_known_by_one_kind_of_key_is_asked_for_that_kind_and_hashed_names_are_found() {
    let place = Place::of(Sshd::start());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("known");
    for kind in ["ecdsa", "ed25519"] {
        let line = format!("[127.0.0.1]:{} {}\n", place.server.port(), place.server.public_host_key(kind));
        fs::write(&file, line).unwrap();
        for hashed in [false, true] {
            if hashed {
                let hash =
                    Command::new("ssh-keygen").arg("-q").arg("-H").arg("-f").arg(&file).output().unwrap();
                assert!(hash.status.success());
                assert!(fs::read_to_string(&file).unwrap().starts_with("|1|"));
            }
            let mut options = place.options();
            options["known_hosts"] = json!(file);
            list(place.open_with(&place.server.url(), options, &[]))
                .unwrap_or_else(|e| panic!("{kind}, hashed {hashed}: {e}"));
        }
    }
}

#[test]
fn accept_new_remembers_the_first_key_and_refuses_another() {
    let mut place = Place::of(Sshd::start());
    let options = |place: &Place| json!({"key_file": place.server.key(), "known_hosts": "/no/file", "host_key": "accept-new"});
    let url = place.server.url();
    for _ in 0..2 {
        list(place.open_with(&url, options(&place), &[])).unwrap();
    }
    // The same address, another server: one key after the other is what the host remembers.
    let other = Place::of(Sshd::start());
    let remembered = place.host.state_get("host-keys").unwrap().unwrap();
    let told = String::from_utf8(remembered)
        .unwrap()
        .replace(&format!(":{} ", place.server.port()), &format!(":{} ", other.server.port()));
    place.host.state_put("host-keys", told.as_bytes()).unwrap();
    place.server = other.server;
    let result = list(place.open_with(&place.server.url(), options(&place), &[]));
    refused(result, ErrorKind::UntrustedPeer, &["has changed", "remembered"]);
}

#[test]
fn a_pinned_key_is_enough_and_any_other_is_refused() {
    let place = Place::of(Sshd::with(Settings { host_keys: vec!["ed25519"], ..Settings::default() }));
    let pinned = |print: &str| {
        let options = json!({"key_file": place.server.key(), "known_hosts": "/no/file", "host_key": print});
        list(place.open_with(&place.server.url(), options, &[]))
    };
    pinned(&place.server.fingerprint("ed25519")).unwrap();
    let wrong = format!("SHA256:{}", "A".repeat(43));
    refused(pinned(&wrong), ErrorKind::UntrustedPeer, &[&wrong, &place.server.fingerprint("ed25519")]);
}

#[test]
fn names_addresses_and_homes_reach_the_same_server() {
    let place = Place::of(Sshd::start());
    place.server.know("localhost", place.server.port());
    let url = place.server.url();
    list(place.open_with(&url.replace("127.0.0.1", "localhost"), place.options(), &[])).unwrap();
    let six = Settings { address: std::net::Ipv6Addr::LOCALHOST.into(), ..Settings::default() };
    let six = Place::of(Sshd::with(six));
    list(Ok(six.open())).unwrap();
    let (server, user) = (place.server.address(), place.server.user());
    list(place.open_with(&format!("sftp://{user}@{server}/~"), place.options(), &[])).unwrap();
}

#[test]
fn what_is_not_there_is_named() {
    let place = Place::of(Sshd::start());
    let options = place.options();
    let elsewhere = |url: &str| list(place.open_with(url, options.clone(), &[]));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    refused(
        elsewhere(&format!("sftp://x@{address}/a")),
        ErrorKind::Unreachable,
        &["refuses the connection", "port"],
    );
    refused(
        elsewhere("sftp://x@no-such-host.invalid/a"),
        ErrorKind::Unreachable,
        &["no-such-host.invalid", "is not known"],
    );
    let missing = format!("{}/not/there", place.server.url());
    refused(elsewhere(&missing), ErrorKind::NotFound, &["check the path"]);
    let backend = place.open_with(&missing, place.options(), &[]).unwrap();
    let error = backend.make_dir(&Call::unwatched(), &path("x")).unwrap_err();
    assert!(error.to_string().contains("nor its parent"), "{error}");
    // One level is made.
    let backend = place.open_with(&format!("{}/new", place.server.url()), place.options(), &[]).unwrap();
    backend.make_dir(&Call::unwatched(), &path("x/y")).unwrap();
    assert!(place.server.data().join("new/x/y").is_dir());
}

#[test]
fn old_algorithms_are_refused_in_words() {
    let lines = ["KexAlgorithms diffie-hellman-group14-sha1"];
    let place = Place::of(Sshd::with_lines(&lines));
    refused(list(Ok(place.open())), ErrorKind::Unsupported, &["SHA-1", "old NAS"]);
}
