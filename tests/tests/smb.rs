//! The SMB plugin, as a library, on real Samba servers.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::sync::Arc;

use offsite::plugin::{PluginLog, Registry};
use offsite_plugin_api::conformance::{self, Report, TestHost};
use offsite_plugin_api::{Backend, Call, CheckReport, ErrorKind, Secrets, StepResult};
use offsite_tests::build;
use offsite_tests::servers::samba::{PASSWORD, Samba};
use serde_json::{Value, json};
use zeroize::Zeroizing;

fn open(url: &str, options: &Value, password: &str) -> Box<dyn Backend> {
    build::artefacts();
    let registry = Registry::discover(&[]);
    let secrets = Secrets(vec![("password".to_owned(), Zeroizing::new(password.to_owned()))]);
    let log = Arc::new(PluginLog::new("test"));
    registry.open_target(url, options, secrets, Arc::new(TestHost::default()), log).unwrap()
}

fn conforms(server: &Samba, options: &Value) -> Report {
    let url = format!("{}/in a/folder é", server.url()).replace(' ', "%20");
    conformance::run(&|| open(&url, options, PASSWORD))
}

fn check(url: &str, options: &Value, password: &str) -> CheckReport {
    open(url, options, password).check(&Call::unwatched()).unwrap()
}

fn failed(report: &CheckReport) -> (&str, &str) {
    let step = report.steps.iter().find(|s| s.result == StepResult::Failed);
    let step = step.unwrap_or_else(|| panic!("no step failed: {report:?}"));
    (&step.name, &step.detail)
}

#[test]
fn the_library_conforms() {
    let server = Samba::start();
    let report = conforms(&server, &json!({}));
    assert!(report.passed(), "{report}\n{}", server.log());
}

#[test]
fn it_conforms_encrypted_and_in_the_oldest_dialect() {
    let server = Samba::with_lines(&["smb encrypt = required"]);
    let report = check(&server.url(), &json!({"encryption": "required"}), PASSWORD);
    assert!(report.passed(), "{report:?}");
    assert_eq!(report.server.as_deref(), Some("SMB 3.1.1"));
    let old = Samba::with_lines(&["server max protocol = SMB2_02"]);
    let report = check(&old.url(), &json!({}), PASSWORD);
    assert!(report.passed() && report.server.as_deref() == Some("SMB 2.0.2"), "{report:?}");
    let refused = check(&old.url(), &json!({"encryption": "required"}), PASSWORD);
    assert_eq!(failed(&refused).0, "reach", "{refused:?}");
}

#[test]
fn mistakes_are_told_in_words() {
    let server = Samba::start();
    let report = check(&server.url(), &json!({}), "wrong");
    let (step, detail) = failed(&report);
    assert!(step == "authenticate" && detail.contains("password"), "{detail}");

    let url = server.url_at(server.address(), "pictures");
    let report = check(&url, &json!({}), PASSWORD);
    let (step, detail) = failed(&report);
    assert!(step == "share" && detail.contains("pictures") && detail.contains("no share"), "{detail}");

    let url = server.url().replace(server.user(), "nobody-here");
    let report = check(&url, &json!({}), PASSWORD);
    let (step, detail) = failed(&report);
    assert!(step == "authenticate" && detail.contains("guest"), "{detail}");

    let url = server.url_at(server.address(), "readonly");
    let report = check(&url, &json!({}), PASSWORD);
    assert_eq!(failed(&report).0, "write", "{report:?}");

    let report = check("smb://u@no-such-host.invalid/images", &json!({}), PASSWORD);
    let (step, detail) = failed(&report);
    assert!(step == "reach" && detail.contains("not known"), "{detail}");

    let report = check("smb://u@127.0.0.1:1/images", &json!({}), PASSWORD);
    let (step, detail) = failed(&report);
    assert!(step == "reach" && detail.contains("nothing listens"), "{detail}");
}

/// Sessions of guests are not signed: who named an account is not given one instead.
#[test]
fn nobody_who_named_an_account_becomes_a_guest() {
    let server = Samba::start();
    let url = server.url_at(server.address(), "guests").replace(server.user(), "nobody-here");
    let report = check(&url, &json!({}), "");
    let (step, detail) = failed(&report);
    assert!(step == "authenticate" && detail.contains("guest"), "{report:?}");
}

#[test]
fn a_guest_is_let_in_when_asked_for_and_warned() {
    let server = Samba::start();
    let url = server.url_at(server.address(), "guests").replace(&format!("{}@", server.user()), "");
    let report = check(&url, &json!({"guest": true}), "");
    assert!(report.passed(), "{report:?}");
    assert!(
        report
            .steps
            .iter()
            .any(|step| step.result == StepResult::Warned && step.detail.contains("not signed")),
        "{report:?}"
    );
    let report = check(&url, &json!({"guest": true, "encryption": "required"}), "");
    assert!(failed(&report).1.contains("encrypt"), "{report:?}");
}

#[test]
fn a_restarted_server_is_met_again() {
    let mut server = Samba::start();
    let target = open(&server.url(), &json!({}), PASSWORD);
    let call = Call::unwatched();
    target.make_dir(&call, &offsite_plugin_api::TargetPath::new("a").unwrap()).unwrap();
    server.restart();
    let path = offsite_plugin_api::TargetPath::root();
    let first = target.list(&call, &path, true, None);
    if let Err(error) = &first {
        let kinds = [ErrorKind::Interrupted, ErrorKind::TimedOut, ErrorKind::Unreachable];
        assert!(kinds.contains(error.kind()), "{error}");
    }
    assert_eq!(target.list(&call, &path, true, None).unwrap().entries.len(), 1);
}
