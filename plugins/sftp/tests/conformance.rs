//! The conformance kit against a real OpenSSH server.
#![allow(clippy::unwrap_used)]

mod common;

use common::Place;
use offsite_plugin_api::conformance::assert_conforms;
use offsite_tests::servers::sshd::{Settings, Sshd};

#[test]
fn openssh_conforms() {
    let place = Place::of(Sshd::start());
    assert_conforms(&|| place.open());
}

#[test]
fn openssh_conforms_with_everything_but_version_3_taken_from_it() {
    // What servers without OpenSSH's extensions and limits are like: no fsync, no posix-rename, no statvfs.
    let plain = "ForceCommand internal-sftp -P \
                 posix-rename,statvfs,fstatvfs,hardlink,fsync,lsetstat,limits,expand-path,copy-data";
    let server = Sshd::with(Settings { lines: vec![plain.to_owned()], ..Settings::default() });
    let place = Place::of(server);
    assert_conforms(&|| place.open());
}
