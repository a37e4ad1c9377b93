//! Real servers as children of a test: each on loopback ports of its own, its data in a temporary folder, gone with
//! the test process whatever ends it.
//!
//! A server that is not installed fails the test and says what installs it; nothing is skipped.

pub mod account;
pub mod apache;
pub mod ftp;
pub mod garage;
pub mod http;
pub mod moto;
pub mod nextcloud;
pub mod port;
pub mod process;
pub mod proftpd;
pub mod redirect;
pub mod s3;
pub mod samba;
pub mod sshd;
pub(crate) mod tool;
pub mod vsftpd;

use std::path::{Path, PathBuf};

/// Where `tests/run` keeps what it built or installed for the tests, and the test account's password.
pub fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.expect("HOME or XDG_CACHE_HOME is set").join("offsite-tests")
}

/// The path of an installed program, or a panic that says how to get it.
#[track_caller]
pub fn installed(path: impl AsRef<Path>, what: &str) -> PathBuf {
    let path = path.as_ref();
    assert!(
        path.exists(),
        "{what} is not installed ({} is missing): run tests/run, which installs it",
        path.display()
    );
    path.to_owned()
}

/// A temporary folder that a server running as another user can pass through.
pub(crate) fn folder(name: &str) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir =
        tempfile::Builder::new().prefix(&format!("offsite-{name}-")).tempdir().expect("a temporary folder");
    let open = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(dir.path(), open).expect("the folder's mode can be set");
    dir
}

/// Lower-case hexadecimal digits, `bytes` random bytes of them.
pub(crate) fn random_hex(bytes: usize) -> String {
    use std::io::Read;
    let mut random = vec![0; bytes];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut random))
        .expect("/dev/urandom works");
    hex(&random)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
