//! The servers of the harness: they start, keep, forget and end as the tests that stand on them assume.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use offsite_tests::program::children;
use offsite_tests::servers::account::account;
use offsite_tests::servers::garage::Garage;
use offsite_tests::servers::moto::Moto;
use offsite_tests::servers::redirect::{Redirect, Style};
use offsite_tests::servers::s3::Client;
use offsite_tests::servers::sshd::{Settings, Sshd};

/// OpenSSH's own client, in batch mode: whether the commands went through.
fn sftp(server: &Sshd, key: &Path, commands: &str) -> bool {
    let mut child = Command::new("sftp")
        .args(["-q", "-b", "-", "-F", "none", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes"])
        .args(["-o", &format!("UserKnownHostsFile={}", server.known_hosts().display())])
        .args(["-i", &key.to_string_lossy(), "-P", &server.port().to_string()])
        .arg(format!("{}@{}:{}", server.user(), server.host(), server.data().display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sftp is installed");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), commands.as_bytes()).unwrap();
    child.wait().unwrap().success()
}

#[test]
fn two_sshds_keep_their_files_apart_over_restart_kill_and_reset() {
    let (mut one, two) = (Sshd::start(), Sshd::start());
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("file");
    fs::write(&file, b"content").unwrap();
    let put = format!("put {}\n", file.display());
    assert!(sftp(&one, &one.key(), &put), "{}", one.log());
    assert_eq!(fs::read(one.data().join("file")).unwrap(), b"content");
    assert_eq!(fs::read_dir(two.data()).unwrap().count(), 0);
    one.restart();
    assert!(sftp(&one, &one.key(), "get file /dev/null\n"), "{}", one.log());
    one.kill();
    assert!(!sftp(&one, &one.key(), "ls\n"));
    one.restart();
    one.reset();
    assert!(!sftp(&one, &one.key(), "get file /dev/null\n"));
    assert!(!sftp(&one, &two.key(), "ls\n"), "another server's key must not get in");
    assert!(sftp(&two, &two.key(), "ls\n"), "{}", two.log());
}

#[test]
fn sshd_takes_other_kinds_of_keys_and_lets_the_account_in_without_roots_power() {
    let server = Sshd::with(Settings {
        host_keys: vec!["ed25519", "rsa"],
        account: Some(account()),
        ..Settings::default()
    });
    let pem = server.another_key("rsa", "", &["-b", "2048", "-m", "PEM"]);
    assert!(fs::read_to_string(&pem).unwrap().starts_with("-----BEGIN RSA PRIVATE KEY-----"));
    assert!(sftp(&server, &pem, "mkdir made\n"), "{}", server.log());
    assert!(!sftp(&server, &server.key(), "mkdir /etc/offsite-test-made\n"));
    assert!(server.fingerprint("rsa").starts_with("SHA256:"));
}

#[test]
fn garage_keeps_objects_with_awkward_keys_and_forgets_them_on_reset() {
    let mut server = Garage::in_region("eu-north-1");
    let client = server.client();
    let keys = ["plain", "a b/c+d&e=%41 ü日本", "x/\"quoted\"<&>"];
    for key in keys {
        client.put(key.as_bytes(), key.as_bytes());
    }
    let mut listed: Vec<_> = client.list("").into_iter().map(|o| String::from_utf8(o.key).unwrap()).collect();
    listed.sort();
    assert_eq!(listed, {
        let mut sorted = keys.map(str::to_owned).to_vec();
        sorted.sort();
        sorted
    });
    server.restart();
    let folder = tempfile::tempdir().unwrap();
    client.download("a b/", folder.path());
    assert_eq!(fs::read_to_string(folder.path().join("c+d&e=%41 ü日本")).unwrap(), keys[1]);
    client.must("POST", b"big", &[("uploads", "")], b"");
    assert_eq!(client.uploads().len(), 1);
    client.delete(b"plain");
    assert_eq!(client.list("").len(), 2);
    let mut other = server.service().clone();
    other.region = "eu-south-1".into();
    assert!(Client::new(other).try_list("").is_err(), "the region is part of the signature");
    server.reset();
    assert_eq!((server.client().list("").len(), server.client().uploads().len()), (0, 0));
}

#[test]
fn moto_has_object_lock_regions_and_conditional_writes() {
    let server = Moto::with("eu-west-1", true);
    let client = server.client();
    let lock = client.must("GET", b"", &[("object-lock", "")], b"");
    assert!(String::from_utf8_lossy(&lock.body).contains("Enabled"));
    client.put(b"key", b"one");
    let again = client.send("PUT", b"key", &[], &[("if-none-match", "*")], b"two").unwrap();
    assert_eq!(again.head.status(), 412, "{}", String::from_utf8_lossy(&again.body));
    assert_eq!(client.get(b"key"), b"one");
    let location = client.must("GET", b"", &[("location", "")], b"");
    assert!(String::from_utf8_lossy(&location.body).contains("eu-west-1"));
}

#[test]
fn the_redirecting_double_names_the_region_and_passes_the_right_one_through() {
    let server = Garage::in_region("eu-north-1");
    for (style, status) in [(Style::Permanent, 301), (Style::Malformed, 400)] {
        let double = Redirect::start(server.service(), style);
        let mut wrong = double.service().clone();
        wrong.region = "us-east-1".into();
        for method in ["HEAD", "GET", "PUT"] {
            let key: &[u8] = if method == "PUT" { b"key" } else { b"" };
            let answer = Client::new(wrong.clone()).send(method, key, &[], &[], &[0; 100_000]).unwrap();
            assert_eq!(answer.head.status(), status);
            assert_eq!(answer.head.header("x-amz-bucket-region"), Some("eu-north-1"));
        }
        assert_eq!(double.refused(), 3);
        assert!(server.client().list("").is_empty());
        double.service().client().put(b"key", b"value");
        assert_eq!(server.client().get(b"key"), b"value");
        server.client().delete(b"key");
    }
}

/// The process that holds a server is killed without a chance to clean up: the server must go, too.
#[test]
fn a_killed_test_leaves_no_server_behind() {
    if std::env::var_os("OFFSITE_TEST_HOLD").is_some() {
        let server = Sshd::start();
        fs::write(
            std::env::var_os("OFFSITE_TEST_HOLD").unwrap(),
            server.process().pid().unwrap().to_string(),
        )
        .unwrap();
        std::thread::sleep(std::time::Duration::from_secs(60));
        panic!("nobody killed this");
    }
    let dir = tempfile::tempdir().unwrap();
    let said = dir.path().join("pid");
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_test_leaves_no_server_behind"])
        .env("OFFSITE_TEST_HOLD", &said)
        .env("TMPDIR", dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let limit = std::time::Duration::from_secs(30);
    offsite_tests::program::wait_until("the server runs", limit, || {
        fs::read(&said).is_ok_and(|b| !b.is_empty())
    });
    let pid = fs::read_to_string(&said).unwrap();
    assert!(children(holder.id()).iter().any(|(child, _)| child.to_string() == pid));
    holder.kill().unwrap();
    holder.wait().unwrap();
    offsite_tests::program::wait_until("the server is gone", limit, || {
        // A zombie waiting for whoever adopted it does not serve any more.
        fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    });
}
