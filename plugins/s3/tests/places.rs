//! Where the bucket is and who may use it: regions, credentials, certificates, and what a mistake in each looks like.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::TcpListener;
use std::process::Command;
use std::time::Instant;

use common::*;
use offsite_plugin_api::{Backend, Call, ErrorKind, Secrets, StepResult, Zeroizing};
use offsite_tests::servers::apache::Apache;
use offsite_tests::servers::garage::Garage;
use offsite_tests::servers::process::{Process, Recipe, accepts};
use offsite_tests::servers::redirect::{Redirect, Style};
use offsite_tests::servers::{cache, moto, port::Port};
use serde_json::{Value, json};

/// The step that failed, and its words.
fn failed(backend: &dyn Backend) -> (String, String) {
    let report = backend.check(&Call::unwatched()).unwrap();
    let step = report.steps.into_iter().find(|s| s.result == StepResult::Failed).unwrap();
    (step.name, step.detail)
}

#[test]
fn the_bucket_tells_its_region_whatever_is_given_and_it_is_remembered() {
    let server = Garage::in_region("eu-north-1");
    for style in [Style::Permanent, Style::Malformed] {
        let double = Redirect::start(server.service(), style);
        let host = machine(double.service());
        for options in [json!({"service": "minio", "region": "us-west-2"}), json!({"service": "minio"})] {
            let backend = open(double.service(), &options, &host);
            assert!(backend.list(&Call::unwatched(), &path(""), true, None).unwrap().entries.is_empty());
            put(&*backend, "x.img", &Data::new(1, 100)).unwrap();
            backend.delete(&Call::unwatched(), &path("x.img"), &offsite_plugin_api::Expect::Any).unwrap();
            let before = double.refused();
            assert!(before > 0, "the wrong region was never tried");
            let again = open(double.service(), &options, &host);
            again.list(&Call::unwatched(), &path(""), true, None).unwrap();
            assert_eq!(double.refused(), before, "the region was remembered");
        }
    }
}

#[test]
fn an_unknown_server_is_asked_what_it_is() {
    let server = Garage::in_region("somewhere");
    let backend = open(server.service(), &json!({}), &machine(server.service()));
    let capabilities = backend.capabilities(&Call::unwatched()).unwrap();
    assert_eq!(capabilities.checked_digests, ["crc64nvme"]);
    assert!(!capabilities.conditional_publish);
    let report = backend.check(&Call::unwatched()).unwrap();
    assert!(report.passed(), "{report:?}");
    assert_eq!(report.server.unwrap(), "S3, garage, region somewhere, unencrypted");
}

#[test]
fn a_mistake_is_told_by_the_step_it_breaks() {
    let server = Garage::start();
    let service = server.service();
    let host = machine(service);
    let keys = |id: &str, secret: &str| {
        let pair = |name: &str, value: &str| (name.to_owned(), Zeroizing::new(value.to_owned()));
        Secrets(vec![pair("access_key_id", id), pair("secret_access_key", secret)])
    };
    let url = url(service);
    let wrong_secret = open_at(&url, keys(&service.access_key, &"0".repeat(64)), &json!({}), &host);
    let (step, words) = failed(&*wrong_secret);
    assert!(!words.contains(&service.access_key) && !words.contains("0000"), "{words}");
    assert_eq!(step, "authenticate", "{words}");
    let wrong_id =
        open_at(&url, keys(&format!("GK{}", "0".repeat(24)), &service.secret_key), &json!({}), &host);
    let (step, words) = failed(&*wrong_id);
    assert_eq!(step, "authenticate", "{words}");

    let half = Secrets(secrets(service).0.into_iter().take(1).collect());
    assert_eq!(refused_at(&url, half, &json!({}), &host).kind(), &ErrorKind::InvalidConfig);
    let nowhere = format!("s3+{}/no-such-bucket/x", service.endpoint());
    let backend = open_at(&nowhere, secrets(service), &json!({}), &host);
    let (step, words) = failed(&*backend);
    assert!(words.contains("bucket"), "{step}: {words}");

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (url, options, expected, said) in [
        (format!("s3+http://{closed}/images"), json!({}), ErrorKind::Unreachable, "refused"),
        (
            "s3+http://no-such-host.invalid/images".into(),
            json!({}),
            ErrorKind::Unreachable,
            "name is unknown",
        ),
        (
            format!("s3+https://{}/images", service.address),
            json!({}),
            ErrorKind::Unreachable,
            "does not speak TLS",
        ),
        (url.clone(), json!({"service": "r2", "region": "auto"}), ErrorKind::Other, ""),
    ] {
        let backend = open_at(&url, secrets(service), &options, &host);
        if expected == ErrorKind::Other {
            // A wrong region is not a mistake that anybody sees: the server names its own.
            assert!(backend.check(&Call::unwatched()).unwrap().passed());
            continue;
        }
        let error = backend.list(&Call::unwatched(), &path(""), true, None).unwrap_err();
        assert_eq!(error.kind(), &expected, "{url}: {error}");
        assert!(error.to_string().contains(said), "{url}: {error}");
        assert_eq!(failed(&*backend).0, "reach");
    }
}

#[test]
fn a_server_that_hangs_does_not_hold_a_cancelled_call() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("s3+http://{}/images", listener.local_addr().unwrap());
    let server = Garage::start();
    let backend =
        open_at(&url, secrets(server.service()), &json!({"service": "minio"}), &machine(server.service()));
    struct Late(Instant);
    impl offsite_plugin_api::CallHost for Late {
        fn cancelled(&self) -> bool {
            self.0.elapsed().as_millis() > 300
        }
        fn remaining(&self) -> Option<std::time::Duration> {
            None
        }
        fn pace(&self, _: u64) -> bool {
            true
        }
        fn acked(&self, _: u64) {}
        fn alive(&self, _: &str) {}
        fn log(&self, _: offsite_plugin_api::Level, _: &str) {}
    }
    let start = Instant::now();
    let call = Call::new(std::sync::Arc::new(Late(start)));
    let error = backend.list(&call, &path(""), true, None).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Cancelled);
    assert!(start.elapsed().as_secs() < 2);
}

/// A certificate authority and a certificate of it for 127.0.0.1.
fn certificates(dir: &std::path::Path) {
    let script = "\
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca &&\
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out req.pem -subj /CN=127.0.0.1 &&\
        printf 'subjectAltName=IP:127.0.0.1' > ext &&\
        openssl x509 -req -in req.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out cert.pem";
    let done = Command::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_certificate_is_trusted_only_with_its_authority() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let port = Port::take();
    let program = cache().join(format!("moto-{}/bin/moto_server", moto::VERSION));
    let address: std::net::SocketAddr = ([127, 0, 0, 1], port.number()).into();
    let recipe = Recipe::new("moto", &program, dir.path().join("log"))
        .args(["-H", "127.0.0.1", "-p", &port.number().to_string()])
        .args([
            "-c",
            dir.path().join("cert.pem").to_str().unwrap(),
            "-k",
            dir.path().join("key.pem").to_str().unwrap(),
        ]);
    let mut process = Process::new(recipe);
    process.start(|| accepts(address));
    let garage = Garage::start();
    let host = machine(garage.service());
    let at = |options: Value| {
        open_at(&format!("s3+https://{address}/images"), secrets(garage.service()), &options, &host)
    };
    let error = at(json!({})).list(&Call::unwatched(), &path(""), true, None).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::UntrustedPeer, "{error}");
    assert!(error.to_string().contains("ca_file"), "{error}");
    let ca = dir.path().join("ca.pem");
    // It is talked to now, and says that it has no such bucket.
    let error = at(json!({"ca_file": ca})).list(&Call::unwatched(), &path(""), true, None).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::InvalidConfig, "{error}");
    let options = json!({"ca_file": "/no/such/file"});
    let missing =
        refused_at(&format!("s3+https://{address}/images"), secrets(garage.service()), &options, &host);
    assert_eq!(missing.kind(), &ErrorKind::InvalidConfig, "{missing}");
}

/// A server that does not know a digest passes over it in silence: then every body goes with one that all servers check.
#[test]
fn a_server_that_names_no_digest_is_given_one_that_every_server_checks() {
    let server = Garage::start();
    let mut front = Apache::in_front_of(server.service().address);
    let conf = std::fs::read_to_string(front.conf()).unwrap();
    let log = front.conf().with_file_name("digests_seen");
    let hidden: String = ["crc64nvme", "algorithm", "type"]
        .iter()
        .map(|name| {
            format!("Header unset x-amz-checksum-{name}\nHeader always unset x-amz-checksum-{name}\n")
        })
        .collect();
    let shown = |hidden: &str| {
        format!(
            "{conf}\nProxyPreserveHost On\nAllowEncodedSlashes NoDecode\nProxyPass / http://{}/ nocanon\n{hidden}\
             LogFormat \"%m %>s %{{Content-MD5}}i %{{x-amz-checksum-crc64nvme}}i\" digests\nCustomLog {} digests\n",
            server.service().address,
            log.display()
        )
    };
    for hides in [true, false] {
        std::fs::write(front.conf(), shown(if hides { &hidden } else { "" })).unwrap();
        front.restart();
        let _ = std::fs::write(&log, "");
        let service = server.service().at(front.address());
        let backend = open(&service, &json!({ "service": "garage" }), &machine(&service));
        for (name, size) in [("small.img", 5000), ("second.img", 5000), ("large.img", 20 * MIB)] {
            put(&*backend, &format!("{hides}-{name}"), &Data::new(1, size)).unwrap();
        }
        front.restart();
        let seen = std::fs::read_to_string(&log).unwrap();
        let puts: Vec<(bool, bool)> = seen
            .lines()
            .filter(|line| line.starts_with("PUT 200"))
            .map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                (words[2] != "-", words[3] != "-")
            })
            .collect();
        let expected = match hides {
            // Two small ones with both, two parts.
            true => vec![(true, true); 4],
            false => vec![(true, true), (false, true), (false, true), (false, true)],
        };
        assert_eq!(puts, expected, "{seen}");
    }
}
