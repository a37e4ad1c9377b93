//! OpenSSH's sshd: keys, configuration and data of its own, in a temporary folder.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::account::{self, Account};
use super::port::Port;
use super::process::{Process, Recipe};

/// What a test may want to be different.
#[derive(Clone, Debug)]
pub struct Settings {
    pub address: IpAddr,
    /// Who logs in: the user of the tests, or the account without privileges.
    pub account: Option<Account>,
    /// Whether a password is taken, by both password methods. Needs root and the account.
    pub passwords: bool,
    /// With `passwords`: by keyboard-interactive only, as servers with PAM often have it.
    pub interactive_only: bool,
    /// Kinds of host keys, as `ssh-keygen -t` names them.
    pub host_keys: Vec<&'static str>,
    /// More lines of `sshd_config`, for example `RekeyLimit 16M`. The first value of a keyword counts: these come first.
    pub lines: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            account: None,
            passwords: false,
            interactive_only: false,
            host_keys: vec!["ed25519", "ecdsa"],
            lines: Vec::new(),
        }
    }
}

pub struct Sshd {
    process: Process,
    port: Port,
    settings: Settings,
    user: String,
    dir: tempfile::TempDir,
}

impl Default for Sshd {
    fn default() -> Self {
        Self::start()
    }
}

impl Sshd {
    /// With the default settings; the user of the tests logs in by key.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(Settings::default())
    }

    /// `RekeyLimit 16M` and the like.
    #[track_caller]
    pub fn with_lines(lines: &[&str]) -> Self {
        Self::with(Settings { lines: lines.iter().map(|l| (*l).to_owned()).collect(), ..Settings::default() })
    }

    /// The account without privileges logs in, by key or password.
    #[track_caller]
    pub fn with_account() -> Self {
        Self::with(Settings { account: Some(account::account()), passwords: true, ..Settings::default() })
    }

    #[track_caller]
    pub fn with(settings: Settings) -> Self {
        let program = super::installed("/usr/sbin/sshd", "OpenSSH's server");
        let port = Port::take();
        let dir = super::folder("sshd");
        let user = settings.account.as_ref().map_or_else(account::current, |a| a.name.clone());
        let recipe = Recipe::new("sshd", &program, dir.path().join("log"))
            .args(["-D", "-e", "-f"])
            .args([dir.path().join("sshd_config")]);
        let mut server = Self { process: Process::new(recipe), port, settings, user, dir };
        server.write();
        server.up();
        server
    }

    fn write(&self) {
        if account::root() {
            // Where sshd gives up its privileges; the system makes it when it starts its own.
            fs::create_dir_all("/run/sshd").expect("root can make /run/sshd");
        }
        fs::create_dir(self.dir.path().join("clients")).expect("a folder");
        self.make_data();
        for kind in &self.settings.host_keys {
            keygen(&self.host_key(kind), kind, "", &[]);
        }
        fs::write(self.authorized(), "").expect("the folder is writable");
        open_to_all(&self.authorized());
        self.authorise(&self.key(), "ed25519", "", &[]);
        self.know(&self.host(), self.port());
        let passwords = self.settings.passwords;
        let yes = |on: bool| if on { "yes" } else { "no" };
        let mut text: String = self.settings.lines.iter().map(|line| format!("{line}\n")).collect();
        for kind in &self.settings.host_keys {
            text += &format!("HostKey {}\n", self.host_key(kind).display());
        }
        text += &format!(
            "ListenAddress {}\nPidFile none\nStrictModes no\nUseDNS no\nPrintMotd no\nAuthorizedKeysFile {}\n\
             PubkeyAuthentication yes\nPasswordAuthentication {}\nKbdInteractiveAuthentication {}\nUsePAM {}\n\
             PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\nLogLevel VERBOSE\n",
            SocketAddr::new(self.settings.address, self.port()),
            self.authorized().display(),
            yes(passwords && !self.settings.interactive_only),
            yes(passwords),
            yes(passwords),
        );
        fs::write(self.dir.path().join("sshd_config"), text).expect("the folder is writable");
    }

    fn make_data(&self) {
        fs::create_dir(self.data()).expect("a folder");
        if let Some(account) = &self.settings.account {
            account.own(&self.data());
        }
    }

    #[track_caller]
    fn up(&mut self) {
        let address = self.address();
        self.process.start(|| greets(address));
    }

    pub fn host(&self) -> String {
        self.settings.address.to_string()
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.settings.address, self.port())
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    /// The folder that `url` names: what the server keeps is read here, without the server.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// `sftp://user@host:port/…/data`
    pub fn url(&self) -> String {
        self.url_at(self.address())
    }

    /// The same place through another address, a proxy's.
    pub fn url_at(&self, address: SocketAddr) -> String {
        format!("sftp://{}@{address}{}", self.user, self.data().display())
    }

    /// An unencrypted OpenSSH private key (ed25519) that logs in as `user`.
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("clients/id_ed25519")
    }

    /// Another private key that logs in: `kind` as `ssh-keygen -t` has it, `options` for example `["-m", "PEM"]`.
    #[track_caller]
    pub fn another_key(&self, kind: &str, passphrase: &str, options: &[&str]) -> PathBuf {
        let name = format!("clients/{}", super::random_hex(4));
        let path = self.dir.path().join(name);
        self.authorise(&path, kind, passphrase, options);
        path
    }

    /// The server's host keys, under every address it was told of; for `known_hosts`.
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.path().join("clients/known_hosts")
    }

    /// Adds the host keys under another address to `known_hosts`: the server behind a proxy, or under a name.
    pub fn know(&self, host: &str, port: u16) {
        let mut file =
            fs::File::options().create(true).append(true).open(self.known_hosts()).expect("writable");
        for kind in &self.settings.host_keys {
            writeln!(file, "[{host}]:{port} {}", self.public_host_key(kind)).expect("writable");
        }
    }

    /// `ssh-ed25519 AAAA…`
    pub fn public_host_key(&self, kind: &str) -> String {
        let text =
            fs::read_to_string(self.host_key(kind).with_extension("pub")).expect("ssh-keygen wrote it");
        text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// `SHA256:…`, as OpenSSH shows it.
    pub fn fingerprint(&self, kind: &str) -> String {
        let output = Command::new("ssh-keygen").arg("-lf").arg(self.host_key(kind)).output();
        let text = String::from_utf8_lossy(&output.expect("ssh-keygen is installed").stdout).into_owned();
        text.split_whitespace().nth(1).expect("a fingerprint").to_owned()
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
        self.process.kill_children();
        fs::remove_dir_all(self.data()).expect("the data can be removed");
        self.make_data();
    }

    fn host_key(&self, kind: &str) -> PathBuf {
        self.dir.path().join(format!("host_{kind}"))
    }

    fn authorized(&self) -> PathBuf {
        self.dir.path().join("authorized_keys")
    }

    fn authorise(&self, path: &Path, kind: &str, passphrase: &str, options: &[&str]) {
        keygen(path, kind, passphrase, options);
        let public = fs::read(path.with_extension("pub")).expect("ssh-keygen wrote it");
        let mut file = fs::File::options().append(true).open(self.authorized()).expect("writable");
        file.write_all(&public).expect("writable");
    }
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("the mode can be set");
}

/// Whether a server there says that it speaks SSH.
fn greets(address: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a time-out can be set");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).is_ok() && line.starts_with("SSH-2.0")
}

#[track_caller]
fn keygen(path: &Path, kind: &str, passphrase: &str, options: &[&str]) {
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-N", passphrase, "-C", "offsite-test", "-f"])
        .arg(path)
        .args(options)
        .output()
        .unwrap_or_else(|e| panic!("cannot run ssh-keygen: {e}; run tests/run, which installs it"));
    assert!(output.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&output.stderr));
}
