//! Warnings of plugins reach the user: as warnings, once per run, in every run, and without changing the exit code.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use offsite_tests::backends::{Reach, reach_s3};
use offsite_tests::program::Ran;
use offsite_tests::sandbox::{Sandbox, random_file};
use offsite_tests::servers::apache::{self, Apache, Login};
use offsite_tests::servers::ftp::{Settings, Tls};
use offsite_tests::servers::garage::Garage;
use offsite_tests::servers::samba::Samba;
use offsite_tests::servers::vsftpd::Vsftpd;

fn source() -> Sandbox {
    let box_ = Sandbox::new();
    random_file(&box_.source().join("C-b000.spf"), 5000, 1);
    random_file(&box_.source().join("C-b000-i001.spi"), 3000, 2);
    box_
}

/// The texts of the notices of that code.
fn told(ran: &Ran, code: &str) -> Vec<String> {
    let notices = ran.events().into_iter().filter(|e| e["event"] == "notice" && e["code"] == code);
    notices
        .map(|notice| {
            assert_eq!(
                (&notice["level"], &notice["failing"]),
                (&"warning".into(), &false.into()),
                "{notice}"
            );
            notice["text"].as_str().unwrap().to_owned()
        })
        .collect()
}

/// In each of two runs: exactly one of that code, with that in it.
#[track_caller]
fn warns_in_every_run(reach: &Reach, code: &str, word: &str) {
    let box_ = source();
    for number in 1..=2 {
        let ran = reach.run(&box_).run().expect(0);
        let texts = told(&ran, code);
        assert!(texts.len() == 1 && texts[0].contains(word), "run {number}: {texts:?}\n{}", ran.all());
        for (_, secret) in &reach.secrets {
            assert!(!ran.all().contains(secret), "{}", ran.all());
        }
    }
    // For people on standard error, where cron finds it.
    let human = reach.apply(box_.offsite().args(["run", "--source", &box_.text("source"), "--settle", "0"]));
    let ran = human.run().expect(0);
    assert_eq!(ran.stderr.matches("warning: ").count(), 1, "{}", ran.all());
}

#[test]
fn a_password_sent_by_plain_ftp_is_warned_of() {
    let server = Vsftpd::start();
    let reach = Reach::new(format!("{}/in", server.url().trim_end_matches('/')));
    warns_in_every_run(&reach.secret("password", server.password()), "plain-password", "without encryption");
}

#[test]
fn a_password_sent_to_a_plain_web_server_is_warned_of() {
    let server = Apache::start();
    let reach = Reach::new(server.url(Login::Basic)).secret("password", apache::PASSWORD);
    warns_in_every_run(&reach, "plain-password", "without encryption");
}

#[test]
fn an_unencrypted_s3_server_is_warned_of() {
    let server = Garage::start();
    warns_in_every_run(&reach_s3(server.service(), "in"), "plain-password", "without encryption");
}

#[test]
fn a_guest_is_warned_of() {
    let server = Samba::start();
    let url = server.url_at(server.address(), "guests").replace(&format!("{}@", server.user()), "");
    warns_in_every_run(&Reach::new(url).option("guest", true), "plugin-warning", "guest");
}

#[test]
fn what_is_encrypted_or_has_no_password_is_not_warned_of() {
    let box_ = source();
    let ftp = Vsftpd::with(Settings::tls(Tls::Explicit));
    let web = Apache::start();
    let tls = Reach::new(format!("{}/in", ftp.url().trim_end_matches('/')));
    for reach in [
        tls.option("ca_file", ftp.ca_file().display()).secret("password", ftp.password()),
        Reach::new(web.tls_url(Login::Basic))
            .option("ca_file", web.ca_file().display())
            .secret("password", apache::PASSWORD),
        Reach::new(format!("{}x/", web.url(Login::None))),
    ] {
        let ran = reach.run(&box_).run().expect(0);
        assert!(!ran.stdout.contains("plain-password"), "{}", ran.all());
    }
}
