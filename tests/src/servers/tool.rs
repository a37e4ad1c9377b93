//! What several servers need from other programs: a certificate of their own, a password's hash.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// A CA (`ca.pem`) and a certificate it signed for the loopback (`server.pem`, `server.key`).
#[track_caller]
pub fn certificates(dir: &Path) {
    let at = |name: &str| dir.join(name).display().to_string();
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"];
    openssl(
        &[
            &["req", "-x509"][..],
            &key,
            &["-subj", "/CN=offsite tests CA", "-keyout", &at("ca.key"), "-out", &at("ca.pem")],
        ]
        .concat(),
    );
    openssl(
        &[
            &["req"][..],
            &key[..5],
            &["-subj", "/CN=localhost", "-keyout", &at("server.key"), "-out", &at("server.csr")],
        ]
        .concat(),
    );
    let extensions =
        "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:127.0.0.2,IP:::1\nbasicConstraints=CA:FALSE\n";
    std::fs::write(dir.join("extensions"), extensions).expect("the folder is writable");
    openssl(&[
        "x509",
        "-req",
        "-days",
        "30",
        "-CAcreateserial",
        "-in",
        &at("server.csr"),
        "-CA",
        &at("ca.pem"),
        "-CAkey",
        &at("ca.key"),
        "-extfile",
        &at("extensions"),
        "-out",
        &at("server.pem"),
    ]);
}

#[track_caller]
fn openssl(arguments: &[&str]) {
    run(Command::new("openssl").args(arguments));
}

#[track_caller]
pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}; run tests/run"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What a program prints when it is given `input`.
#[track_caller]
pub fn fed(command: &[&str], input: &str) -> String {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run {}: {e}; run tests/run", command[0]));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    String::from_utf8(child.wait_with_output().expect("it ends").stdout).expect("it prints text")
}
