//! What a user gets wrong, on real servers: `offsite check` says in words which step failed and why, exits with 1, and
//! leaves nothing behind.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;

use offsite_tests::backends::{Backend, Reach, S3, Sftp, reach_s3};
use offsite_tests::program::Ran;
use offsite_tests::sandbox::{Sandbox, files, random_file, tree};
use offsite_tests::servers::account::account;
use offsite_tests::servers::apache::{self, Apache, Login};
use offsite_tests::servers::garage::Garage;
use offsite_tests::servers::redirect::{Redirect, Style};
use offsite_tests::servers::sshd::{Settings, Sshd};

fn sandbox() -> Sandbox {
    let box_ = Sandbox::new();
    random_file(&box_.source().join("disk-b000.spf"), 5000, 5);
    box_
}

/// The check fails, and says one of each group of words.
#[track_caller]
fn refused(reach: &Reach, words: &[&str]) -> Ran {
    let box_ = sandbox();
    let check = reach.check(&box_).args(["--attempts", "1"]).run().expect(1);
    let said = check.all().to_lowercase();
    for word in words {
        assert!(word.split('|').any(|w| said.contains(w)), "not said: {word}\n{said}");
    }
    let run = reach.run(&box_).args(["--attempts", "1"]).run();
    assert_ne!(run.code, Some(0), "{}", run.all());
    check
}

#[test]
fn sftp_an_unknown_host_is_named() {
    refused(
        &Reach::new("sftp://someone@no-such-host.invalid/backups".into()),
        &["no-such-host.invalid", "name|resolve"],
    );
}

#[test]
fn sftp_an_unknown_and_a_changed_host_key_are_refused_and_told_apart() {
    let (server, other) = (Sftp::start(), Sftp::start());
    let empty = tempfile::NamedTempFile::new().unwrap();
    let reach = |known: &std::path::Path| {
        Reach::new(server.0.url())
            .option("key_file", server.0.key().display())
            .option("known_hosts", known.display())
    };
    let unknown = refused(&reach(empty.path()), &["host key", "sha256:", "known_hosts"]);
    let key = other.0.public_host_key("ed25519");
    fs::write(empty.path(), format!("[{}]:{} {key}\n", server.0.host(), server.0.port())).unwrap();
    let changed = refused(&reach(empty.path()), &["host key", "changed|another|different|not the one"]);
    assert_ne!(unknown.stdout, changed.stdout);
    let box_ = sandbox();
    let pinned = |fingerprint: String| {
        Reach::new(server.0.url())
            .option("key_file", server.0.key().display())
            .option("host_key", fingerprint)
    };
    // The key that this client meets first is the one the server prefers.
    let fits = |kind: &str| pinned(server.0.fingerprint(kind)).check(&box_).run().code == Some(0);
    assert!(fits("ed25519"), "a pinned key of the server's");
    refused(&pinned(other.0.fingerprint("ed25519")), &["host key"]);
}

#[test]
fn sftp_a_wrong_password_a_foreign_key_and_a_missing_folder_are_told_apart() {
    let server = Sshd::with_account();
    let reach = |url: String| Reach::new(url).option("known_hosts", server.known_hosts().display());
    refused(&reach(server.url()).secret("password", "wrong-password"), &["password"]);
    let stranger = Sshd::start();
    refused(&reach(server.url()).option("key_file", stranger.key().display()), &["key"]);
    let good = |url: String| reach(url).secret("password", &account().password);
    refused(&good(format!("{}/missing/folder", server.url())), &["missing|not there|no such|not exist"]);
    refused(
        &good(format!("sftp://{}@{}/root", account().name, server.address())),
        &["permission|denied|not allowed"],
    );
    good(server.url()).check(&sandbox()).run().expect(0);
}

#[test]
fn sftp_a_server_that_asks_in_its_own_words_takes_the_password() {
    let server = Sshd::with(Settings {
        account: Some(account()),
        passwords: true,
        interactive_only: true,
        ..Settings::default()
    });
    let reach = Reach::new(server.url()).option("known_hosts", server.known_hosts().display());
    let box_ = sandbox();
    reach.clone().secret("password", &account().password).run(&box_).run().expect(0);
    assert_eq!(tree(&box_.source()), tree(&server.data()));
    refused(&reach.secret("password", "wrong"), &["password"]);
}

#[test]
fn sftp_a_read_only_folder_and_a_full_disk_are_told_as_such() {
    let server = Sshd::with_account();
    let reach = |folder: &str| {
        Reach::new(format!("{}/{folder}", server.url()))
            .option("key_file", server.key().display())
            .option("known_hosts", server.known_hosts().display())
    };
    let locked = server.data().join("locked");
    fs::create_dir(&locked).unwrap();
    refused(&reach("locked"), &["write|permission|denied"]);
    assert_eq!(files(&locked).len(), 0);

    let full = Tmpfs::mount(&server.data().join("full"), "64k");
    account().own(&full.0);
    let box_ = sandbox();
    random_file(&box_.source().join("disk-b000.spf"), 3 << 20, 5);
    let run = reach("full").run(&box_).args(["--attempts", "1"]).run();
    assert_eq!(run.code, Some(1), "{}", run.all());
    assert!(run.all().to_lowercase().contains("space"), "{}", run.all());
    assert_eq!(tree(&full.0).len(), 0);
}

/// A small disk.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn mount(path: &std::path::Path, size: &str) -> Self {
        fs::create_dir(path).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(path)
            .status()
            .unwrap();
        assert!(mounted.success(), "mounting needs root");
        Self(path.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn s3_wrong_keys_and_a_missing_bucket_are_told_apart() {
    let server = Garage::start();
    let service = server.service();
    let with = |change: &dyn Fn(&mut offsite_tests::servers::garage::Service)| {
        let mut other = service.clone();
        change(&mut other);
        reach_s3(&other, "folder")
    };
    refused(&with(&|s| s.secret_key = s.secret_key.chars().rev().collect()), &["key"]);
    refused(&with(&|s| s.access_key = format!("GK{}", "0".repeat(24))), &["key"]);
    refused(&with(&|s| s.bucket = "no-such-bucket".into()), &["bucket", "no-such-bucket"]);
    refused(
        &Reach { url: "s3+http://no-such-host.invalid/bucket".into(), ..with(&|_| ()) },
        &["no-such-host.invalid"],
    );
    with(&|_| ()).check(&sandbox()).run().expect(0);
    assert!(server.client().list("").is_empty(), "{:?}", server.client().list(""));
}

/// A double answers for the wrong region as AWS does; behind it is a real server.
#[test]
fn s3_a_wrong_region_is_found_out_and_the_right_one_used() {
    let server = Garage::in_region("eu-north-1");
    for style in [Style::Permanent, Style::Malformed] {
        let double = Redirect::start(server.service(), style);
        let mut wrong = double.service().clone();
        wrong.region = "us-west-2".into();
        let box_ = sandbox();
        let reach = reach_s3(&wrong, &format!("{style:?}"));
        reach.run(&box_).run().expect(0);
        assert!(double.refused() > 0);
        let there = tempfile::tempdir().unwrap();
        server.client().download(&format!("{style:?}/"), there.path());
        assert_eq!(tree(&box_.source()), tree(there.path()));
    }
}

/// Apache's TLS before Garage: certificates are always checked, and a further authority is an option.
#[test]
fn s3_over_tls_trusts_the_given_authority_and_nothing_unknown() {
    let server = Garage::start();
    let tls = Apache::in_front_of(server.service().address);
    let port = tls.tls_address().port();
    let reach = |host: &str| Reach {
        url: format!("s3+https://{host}:{port}/offsite/folder"),
        ..reach_s3(server.service(), "")
    };
    refused(&reach("127.0.0.1"), &["certificate"]);
    let box_ = sandbox();
    random_file(&box_.source().join("disk-b000-i001.spi"), 20 << 20, 6);
    for host in ["127.0.0.1", "localhost"] {
        let trusted = reach(host).option("ca_file", tls.ca_file().display());
        trusted.check(&box_).run().expect(0);
    }
    reach("127.0.0.1").option("ca_file", tls.ca_file().display()).run(&box_).run().expect(0);
    let there = tempfile::tempdir().unwrap();
    server.client().download("folder/", there.path());
    assert_eq!(tree(&box_.source()), tree(there.path()));
}

#[test]
fn what_is_wrong_whatever_the_network_does_is_a_configuration_error() {
    let pair = |url: &str| Reach::new(url.into()).secret("access_key_id", "GK12");
    for (reach, word) in [
        (Reach::new("sfpt://me@127.0.0.1/x".into()), "no plugin serves 'sfpt:'"),
        (pair("s3+http://127.0.0.1:1/bucket"), "'secret_access_key' is missing"),
        (Reach::new("s3+https://127.0.0.1:1/bucket".into()).option("ca_file", "/no/such"), "/no/such"),
        (Reach::new("https://me@127.0.0.1:1/x".into()).option("certificate_sha256", "AB"), "64 hexadecimal"),
        (Reach::new("smb://me@127.0.0.1:1".into()), "names no share"),
        (
            Reach::new("sftp://me@127.0.0.1:1/x".into()).option("host_key", "SHA256:x"),
            "with this fingerprint",
        ),
    ] {
        for ran in [reach.run(&sandbox()).run(), reach.check(&sandbox()).run()] {
            let ran = ran.expect(2);
            assert!(ran.all().contains(word), "{word}: {}", ran.all());
        }
    }
}

#[test]
fn the_port_of_another_protocol_and_a_forgotten_password_are_told_as_such() {
    let (apache, sshd) = (Apache::start(), Sshd::start());
    let login = |url: String| Reach::new(url).secret("password", apache::PASSWORD);
    let tls = format!("http://me@{}/digest", apache.tls_address());
    let plain = format!("https://me@{}/digest", apache.address());
    let key = sshd.key();
    refused(&login(tls), &["if the server wants tls, write https:"]);
    refused(&login(plain), &["does not speak tls"]);
    refused(&login(format!("http://me@{}/x", sshd.address())), &["does not speak http"]);
    refused(&Reach::new(apache.url(Login::Digest)), &["none is given"]);
    let ssh = Reach::new(format!("sftp://me@{}/x", apache.address())).option("key_file", key.display());
    refused(&ssh, &["no ssh server"]);
    let s3 = Reach::new(format!("s3+http://{}/bucket", sshd.address()));
    refused(&s3.secret("access_key_id", "GK12").secret("secret_access_key", "x"), &["does not speak http"]);
}

#[test]
fn options_are_checked_against_the_plugins_schema_with_the_key_named() {
    let (sftp, s3) = (Sftp::start(), S3::start());
    for (reach, key, value) in [
        (sftp.reach(), "host_key", "whatever"),
        (sftp.reach(), "known_host", "x"),
        (s3.reach(), "part_size", "3"),
        (s3.reach(), "service", "floppy"),
    ] {
        let reach = reach.option(key, value);
        for ran in [reach.run(&sandbox()).run(), reach.check(&sandbox()).run()] {
            let ran = ran.expect(2);
            assert!(ran.all().contains(key), "{key}: {}", ran.all());
        }
    }
}
