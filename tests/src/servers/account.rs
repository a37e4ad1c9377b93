//! The one system account of the tests: without privileges, with a password that is kept outside the repository.
//!
//! `tests/run` creates it. Password logins use it, and so do tests of refusals: root is refused nothing.

use std::path::Path;

pub const NAME: &str = "offsite-test";

/// The account as the system has it.
#[derive(Clone, Debug)]
pub struct Account {
    pub name: String,
    pub password: String,
    pub uid: u32,
    pub gid: u32,
}

/// The test account; panics with what to do where it is missing.
#[track_caller]
pub fn account() -> Account {
    let missing = "run tests/run, which creates the account of the tests";
    let users = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
    let line = users.lines().find(|line| line.split(':').next() == Some(NAME));
    let fields: Vec<&str> =
        line.unwrap_or_else(|| panic!("there is no user {NAME}: {missing}")).split(':').collect();
    let password = super::cache().join("account.password");
    let password = std::fs::read_to_string(&password)
        .unwrap_or_else(|e| panic!("cannot read {}: {e}; {missing}", password.display()));
    let number = |n: usize| fields[n].parse().expect("/etc/passwd holds numbers");
    Account { name: NAME.into(), password: password.trim().into(), uid: number(2), gid: number(3) }
}

impl Account {
    /// Gives the folder to the account. Needs root.
    #[track_caller]
    pub fn own(&self, folder: &Path) {
        std::os::unix::fs::chown(folder, Some(self.uid), Some(self.gid)).unwrap_or_else(|e| {
            panic!("cannot give {} to {NAME}: {e}; these tests need root", folder.display())
        });
    }
}

/// Whether the tests run as root.
pub fn root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The name of the user the tests run as.
pub fn current() -> String {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
    let line = users.lines().find(|line| line.split(':').nth(2) == Some(&uid));
    line.and_then(|line| line.split(':').next()).expect("the user has a name").to_owned()
}
