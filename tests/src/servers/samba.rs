//! Samba's smbd: accounts, shares and state of its own, in a temporary folder.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::account;
use super::port::Port;
use super::process::{Process, Recipe, accepts};

/// The account's password on this server, which lives for one test on loopback.
pub const PASSWORD: &str = "p4ss word é";
/// Shares: `images` needs the account, `guests` takes everybody, `readonly` cannot be written.
pub const SHARE: &str = "images";

pub struct Samba {
    process: Process,
    port: Port,
    user: String,
    dir: tempfile::TempDir,
}

impl Default for Samba {
    fn default() -> Self {
        Self::start()
    }
}

impl Samba {
    #[track_caller]
    pub fn start() -> Self {
        Self::with_lines(&[])
    }

    /// More lines of the section `[global]`, for example `smb encrypt = required`.
    #[track_caller]
    pub fn with_lines(lines: &[&str]) -> Self {
        let program = super::installed("/usr/sbin/smbd", "Samba");
        let port = Port::take();
        let dir = super::folder("samba");
        let recipe = Recipe::new("smbd", &program, dir.path().join("log"))
            .args(["--foreground", "--debug-stdout", "--configfile"])
            .args([dir.path().join("smb.conf")]);
        let mut server = Self { process: Process::new(recipe), port, user: account::current(), dir };
        server.write(lines);
        server.up();
        server
    }

    fn write(&self, lines: &[&str]) {
        let dir = self.dir.path();
        for name in ["private", "state", "cache", "lock", "pid", "rpc"] {
            fs::create_dir(dir.join(name)).expect("a folder");
        }
        fs::create_dir(self.data()).expect("a folder");
        let at = |name: &str| dir.join(name).display().to_string();
        let more: String = lines.iter().map(|line| format!(" {line}\n")).collect();
        let text = format!(
            "[global]\n server role = standalone server\n workgroup = OFFSITE\n netbios name = OFFSITETEST\n \
             passdb backend = tdbsam:{private}/passdb.tdb\n private dir = {private}\n state directory = {}\n \
             cache directory = {}\n lock directory = {}\n pid directory = {}\n ncalrpc dir = {}\n \
             smb ports = {}\n interfaces = lo\n bind interfaces only = yes\n disable netbios = yes\n \
             disable spoolss = yes\n load printers = no\n printcap name = /dev/null\n map to guest = Bad User\n \
             log level = 1\n{more}\
             [images]\n path = {data}\n read only = no\n\
             [guests]\n path = {data}\n read only = no\n guest ok = yes\n guest only = yes\n force user = {user}\n\
             [readonly]\n path = {data}\n read only = yes\n",
            at("state"),
            at("cache"),
            at("lock"),
            at("pid"),
            at("rpc"),
            self.port(),
            private = at("private"),
            data = self.data().display(),
            user = self.user,
        );
        fs::write(dir.join("smb.conf"), text).expect("the folder is writable");
        let mut child = Command::new("smbpasswd")
            .arg("-c")
            .arg(dir.join("smb.conf"))
            .args(["-s", "-a", &self.user])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run smbpasswd: {e}; run tests/run, which installs it"));
        let input = child.stdin.as_mut().expect("it is piped");
        write!(input, "{PASSWORD}\n{PASSWORD}\n").expect("smbpasswd reads");
        let output = child.wait_with_output().expect("smbpasswd ends");
        assert!(output.status.success(), "smbpasswd: {}", String::from_utf8_lossy(&output.stderr));
    }

    #[track_caller]
    fn up(&mut self) {
        let address = self.address();
        self.process.start(|| accepts(address));
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    /// The folder of all shares: what the server keeps is read here, without the server.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn url(&self) -> String {
        self.url_at(self.address(), SHARE)
    }

    /// Another share, or the same place through a proxy.
    pub fn url_at(&self, address: SocketAddr, share: &str) -> String {
        format!("smb://{}@{address}/{share}", self.user)
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    pub fn stop(&mut self) {
        self.process.stop();
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// The same server on the same port, with what it held.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process.stop();
        self.up();
    }

    /// Cuts every session; the server goes on.
    pub fn cut(&self) {
        self.process.kill_children();
    }

    /// Throws away what it holds.
    pub fn reset(&mut self) {
        fs::remove_dir_all(self.data()).expect("the data can be removed");
        fs::create_dir(self.data()).expect("a folder");
    }
}
