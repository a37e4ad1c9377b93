//! The FTP plugin, as a library, on real servers: vsftpd and ProFTPD, without and with TLS.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::sync::Arc;
use std::time::Duration;

use offsite::plugin::{PluginLog, Registry};
use offsite_plugin_api::conformance::{self, TestHost};
use offsite_plugin_api::{Backend, Call, CheckReport, ErrorKind, Secrets, StepResult, TargetPath};
use offsite_tests::build;
use offsite_tests::sandbox::{Sandbox, random_file, tree};
use offsite_tests::servers::ftp::{Settings, Tls};
use offsite_tests::servers::proftpd::Proftpd;
use offsite_tests::servers::vsftpd::Vsftpd;
use serde_json::{Value, json};
use zeroize::Zeroizing;

fn open(url: &str, options: &Value, password: &str) -> Box<dyn Backend> {
    build::artefacts();
    let registry = Registry::discover(&[]);
    let secrets = Secrets(vec![("password".to_owned(), Zeroizing::new(password.to_owned()))]);
    let log = Arc::new(PluginLog::new("test"));
    registry.open_target(url, options, secrets, Arc::new(TestHost::default()), log).unwrap()
}

fn conforms(url: &str, options: &Value, password: &str, log: &dyn Fn() -> String) {
    let url = format!("{}/in a/folder é", url.trim_end_matches('/')).replace(' ', "%20");
    let report = conformance::run(&|| open(&url, options, password));
    let log = log();
    let end = log.lines().rev().take(30).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
    assert!(report.passed(), "{report}\n{end}");
}

fn check(url: &str, options: &Value, password: &str) -> CheckReport {
    open(url, options, password).check(&Call::unwatched()).unwrap()
}

fn step<'a>(report: &'a CheckReport, name: &str) -> (StepResult, &'a str) {
    let step = report.steps.iter().find(|s| s.name == name);
    let step = step.unwrap_or_else(|| panic!("no step {name}: {report:?}"));
    (step.result, &step.detail)
}

fn failed(report: &CheckReport) -> (&str, &str) {
    let step = report.steps.iter().find(|s| s.result == StepResult::Failed);
    let step = step.unwrap_or_else(|| panic!("no step failed: {report:?}"));
    (&step.name, &step.detail)
}

#[test]
fn it_conforms_on_vsftpd() {
    let server = Vsftpd::start();
    conforms(&server.url(), &json!({}), server.password(), &|| server.log());
}

#[test]
fn it_conforms_on_vsftpd_that_wants_tls_sessions_continued() {
    let server = Vsftpd::with(Settings::tls(Tls::Explicit));
    conforms(&server.url(), &json!({"ca_file": server.ca_file()}), server.password(), &|| server.log());
}

#[test]
fn it_conforms_on_proftpd_with_tls() {
    let server = Proftpd::with(Settings::tls(Tls::Explicit));
    conforms(&server.url(), &json!({"ca_file": server.ca_file()}), server.password(), &|| server.log());
}

#[test]
fn tls_from_the_first_byte() {
    let server = Vsftpd::with(Settings::tls(Tls::Implicit));
    let options = json!({"ca_file": server.ca_file(), "tls": "implicit"});
    let report = check(&server.url(), &options, server.password());
    assert!(report.passed(), "{report:?}\n{}", server.log());
    let server = Proftpd::with(Settings::tls(Tls::Implicit));
    let options = json!({"ca_file": server.ca_file(), "tls": "implicit"});
    let report = check(&server.url(), &options, server.password());
    assert!(report.passed(), "{report:?}\n{}", server.log());
}

#[test]
fn over_ipv6_and_in_the_classic_mode() {
    let settings = Settings { address: std::net::Ipv6Addr::LOCALHOST.into(), ..Settings::default() };
    let server = Vsftpd::with(settings);
    let report = check(&server.url(), &json!({}), server.password());
    assert!(report.passed(), "{report:?}\n{}", server.log());
    let server = Proftpd::start();
    let report = check(&server.url(), &json!({"passive": "classic"}), server.password());
    assert!(report.passed(), "{report:?}\n{}", server.log());
}

#[test]
fn a_server_that_forbids_restarts_is_told_and_takes_whole_files() {
    let server = Proftpd::with(Settings::default().line("AllowStoreRestart off"));
    let report = check(&server.url(), &json!({}), server.password());
    let (result, detail) = step(&report, "resume");
    assert!(
        report.passed() && result == StepResult::Warned && detail.contains("AllowStoreRestart"),
        "{report:?}"
    );
}

#[test]
fn mistakes_are_told_in_words() {
    let server = Vsftpd::start();
    let report = check(&server.url(), &json!({}), "wrong");
    let (name, detail) = failed(&report);
    assert!(name == "authenticate" && detail.contains("password"), "{detail}");

    // A plain server is never taken for a secure one.
    let secure = server.url().replacen("ftp:", "ftps:", 1);
    let report = check(&secure, &json!({}), server.password());
    let (name, detail) = failed(&report);
    assert!(name == "reach" && detail.contains("does not offer TLS"), "{detail}");

    let tls = Vsftpd::with(Settings::tls(Tls::Explicit));
    let report = check(&tls.url(), &json!({}), tls.password());
    let (name, detail) = failed(&report);
    assert!(name == "reach" && detail.contains("ca_file"), "{detail}");

    let plain = tls.url().replacen("ftps:", "ftp:", 1);
    let report = check(&plain, &json!({}), tls.password());
    let (name, detail) = failed(&report);
    assert!(name == "authenticate" && detail.contains("use ftps:"), "{report:?}");

    let report = check(&server.url(), &json!({}), "");
    let (name, detail) = failed(&report);
    assert!(name == "authenticate" && detail.contains("no password was given"), "{report:?}");

    let report = check("ftp://u@no-such-host.invalid/images", &json!({}), "x");
    let (name, detail) = failed(&report);
    assert!(name == "reach" && detail.contains("not known"), "{detail}");

    let report = check("ftp://u@127.0.0.1:1/images", &json!({}), "x");
    let (name, detail) = failed(&report);
    assert!(name == "reach" && detail.contains("nothing listens"), "{detail}");

    let locked = Vsftpd::with(Settings::default().line("write_enable=NO"));
    let report = check(&locked.url(), &json!({}), locked.password());
    let (name, detail) = failed(&report);
    assert!(matches!(name, "folder" | "write") && detail.contains("may not"), "{report:?}");
    assert!(report.steps.iter().all(|s| s.name != "resume"), "{report:?}");
}

#[test]
fn a_restarted_server_is_met_again() {
    let mut server = Vsftpd::start();
    let target = open(&server.url(), &json!({}), server.password());
    let call = Call::unwatched();
    target.make_dir(&call, &TargetPath::new("a").unwrap()).unwrap();
    server.restart();
    let root = TargetPath::root();
    if let Err(error) = target.list(&call, &root, true, None) {
        assert_eq!(error.kind(), &ErrorKind::Interrupted, "{error}");
    }
    let listed = target.list(&call, &root, true, None).unwrap();
    assert!(listed.entries.iter().any(|entry| entry.path.as_bytes() == b"a"), "{listed:?}");
}

/// With one session an upload cannot be asked about while it goes on; with any number, nobody waits for what he holds himself.
#[test]
fn a_server_that_takes_few_sessions_gets_all_of_it() {
    let limited = |sessions: u32| {
        let server = Vsftpd::with(Settings::default().line(&format!("max_per_ip={sessions}")));
        let box_ = Sandbox::new();
        random_file(&box_.source().join("web@c_20240101_d01_00001.aiv"), 9 << 20, 1);
        random_file(&box_.source().join("web@c_20240101_d01_00001_i00001.aii"), 17 << 20, 2);
        for n in 0..12 {
            random_file(&box_.source().join(format!("h{n}@c_20240101_d01_00001.aiv")), 5_000, 10 + n);
        }
        random_file(&box_.source().join("db@c_20240101_d01_00001.aiv"), 30 << 20, 3);
        let url = server.url();
        let run =
            box_.offsite().args(["run", "--settle", "0", "--source", &box_.text("source"), "--to", &url]);
        let run =
            run.args(["--credential", "password=env:FTP_PASSWORD"]).env("FTP_PASSWORD", server.password());
        let run = run.start(&box_.path("home")).wait(Duration::from_secs(120)).expect(0);
        assert!(!run.all().contains("attempt"), "{}", run.all());
        assert_eq!(tree(&server.data()), tree(&box_.source()), "with {sessions} sessions");
    };
    [1, 2, 4].into_iter().for_each(limited);
}
