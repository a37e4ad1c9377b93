//! ProFTPD, with MLSD and digest commands. Debian's packages of FTP servers exclude one another, so `tests/run` unpacks this
//! one into the cache folder, and it is started from there. Its one login is its own, not the system's.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::account::{self, Account};
use super::ftp::{Ports, Settings, Tls, greets, url};
use super::process::{Process, Recipe};
use super::tool::{certificates, fed, run};
use crate::proxy::Proxy;

/// The login's password on this server, which lives for one test on loopback.
pub const PASSWORD: &str = "p4ss wörd %41&é";

pub struct Proftpd {
    process: Process,
    ports: Ports,
    settings: Settings,
    account: Account,
    dir: tempfile::TempDir,
}

impl Default for Proftpd {
    fn default() -> Self {
        Self::start()
    }
}

impl Proftpd {
    /// Without TLS.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(Settings::default())
    }

    #[track_caller]
    pub fn with(settings: Settings) -> Self {
        let root = super::cache().join("proftpd");
        let program = super::installed(root.join("usr/sbin/proftpd"), "ProFTPD");
        let dir = super::folder("proftpd");
        let recipe = Recipe::new("proftpd", &program, dir.path().join("log"))
            .args(["--nodaemon", "--quiet", "--config"])
            .args([dir.path().join("proftpd.conf")])
            .env("LD_LIBRARY_PATH", &libraries(&root));
        let account = if account::root() { account::account() } else { me() };
        let process = Process::new(recipe);
        let mut server = Self { process, ports: Ports::take(), settings, account, dir };
        server.write(&root.join("usr/lib/proftpd"));
        server.make_data();
        server.up();
        server
    }

    fn write(&self, modules: &Path) {
        let dir = self.dir.path().display();
        let (first, last) = self.ports.passive();
        // As root, it does not change its user while it waits: the kernel would forget to end it with the test.
        let (user, group) = if account::root() { ("root".to_owned(), "root".to_owned()) } else { ids() };
        let mut text = format!(
            "ModulePath {}\nModuleControlsACLs insmod,rmmod deny user *\nLoadModule mod_digest.c\nLoadModule mod_tls.c\n\
             ServerType standalone\nServerName \"offsite tests\"\nDefaultServer on\nPort {}\nDefaultAddress {}\nSocketBindTight on\n\
             UseIPv6 {}\nPassivePorts {first} {last}\nUser {user}\nGroup {group}\nPidFile {dir}/pid\n\
             ScoreboardFile {dir}/scoreboard\nScoreboardMutex {dir}/scoreboard.lock\nDelayEngine off\nControlsEngine off\n\
             WtmpLog off\nTransferLog NONE\nSystemLog {dir}/server.log\nUseReverseDNS off\nMaxInstances 60\nUmask 022\n\
             AuthPAM off\nAuthOrder mod_auth_file.c\nAuthUserFile {dir}/users\nRequireValidShell off\nUseFtpUsers off\n\
             AllowOverwrite on\nAllowStoreRestart on\nAllowRetrieveRestart on\nTimesGMT on\n",
            modules.display(),
            self.ports.control(),
            self.settings.address,
            if self.settings.address.is_ipv6() { "on" } else { "off" },
        );
        if self.settings.tls != Tls::None {
            certificates(self.dir.path());
            text += &format!(
                "TLSEngine on\nTLSRequired on\nTLSProtocol TLSv1.2 TLSv1.3\nTLSLog {dir}/tls.log\n\
                 TLSECCertificateFile {dir}/server.pem\nTLSECCertificateKeyFile {dir}/server.key\n",
            );
        }
        if self.settings.tls == Tls::Implicit {
            text += "TLSOptions UseImplicitSSL\n";
        }
        for line in &self.settings.lines {
            // Of two, the first would count.
            let directive = line.split(' ').next().unwrap_or_default();
            let kept = |of: &&str| of.split(' ').next() != Some(directive);
            text = text.lines().filter(kept).map(|of| format!("{of}\n")).collect();
            text += &format!("{line}\n");
        }
        fs::write(self.dir.path().join("proftpd.conf"), text).expect("the folder is writable");
        let hash = fed(&["openssl", "passwd", "-6", "-stdin"], PASSWORD);
        let Account { name, uid, gid, .. } = &self.account;
        let line = format!("{name}:{}:{uid}:{gid}::{}:/bin/sh\n", hash.trim(), self.data().display());
        let users = self.dir.path().join("users");
        fs::write(&users, line).expect("the folder is writable");
        fs::set_permissions(users, fs::Permissions::from_mode(0o600)).expect("the mode can be set");
    }

    fn make_data(&self) {
        fs::create_dir(self.data()).expect("a folder");
        if account::root() {
            self.account.own(&self.data());
        }
    }

    pub fn password(&self) -> &str {
        PASSWORD
    }

    #[track_caller]
    fn up(&mut self) {
        let (address, tls) = (self.address(), self.settings.tls);
        self.process.start(|| greets(address, tls));
    }

    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.settings.address, self.ports.control())
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A proxy before control and data connections.
    pub fn proxy(&self) -> Proxy {
        self.far(Duration::ZERO)
    }

    /// The same over a long line.
    pub fn far(&self, round_trip: Duration) -> Proxy {
        self.ports.proxy(self.settings.address, round_trip)
    }

    pub fn user(&self) -> &str {
        &self.account.name
    }

    /// The folder where the login starts: what the server keeps is read here, without the server.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// `ftp://user@127.0.0.1:port/`, or `ftps:`.
    pub fn url(&self) -> String {
        self.url_at(self.address())
    }

    /// The same place through another address, a proxy's.
    pub fn url_at(&self, address: SocketAddr) -> String {
        url(self.settings.tls, &self.account.name, address)
    }

    /// The certificate that signed the server's; PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Gives what a test put there to the login's account.
    pub fn own_data(&self) {
        if account::root() {
            let owner = format!("{}:{}", self.account.uid, self.account.gid);
            run(Command::new("chown").args(["-R", &owner]).arg(self.data()));
        }
    }

    pub fn log(&self) -> String {
        let own = fs::read(self.dir.path().join("server.log")).unwrap_or_default();
        format!("{}{}", self.process.log(), String::from_utf8_lossy(&own))
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

    /// The same server on the same ports, with what it held.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process.stop();
        self.up();
    }

    /// Cuts every session; the server goes on.
    pub fn cut(&self) {
        self.process.kill_children();
    }

    /// Throws away what it holds, and cuts every session.
    pub fn reset(&mut self) {
        self.cut();
        fs::remove_dir_all(self.data()).expect("the data can be removed");
        self.make_data();
    }
}

/// Where the libraries lie that came with it: `usr/lib/x86_64-linux-gnu` and the like.
fn libraries(root: &Path) -> String {
    let folders = fs::read_dir(root.join("usr/lib")).expect("it was unpacked");
    let folders = folders.flatten().map(|entry| entry.path());
    let folders: Vec<String> = folders.map(|path| path.display().to_string()).collect();
    folders.join(":")
}

/// The user of the tests.
fn me() -> Account {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Account { name: account::current(), password: String::new(), uid, gid }
}

/// The same, as the configuration names them.
fn ids() -> (String, String) {
    let me = me();
    (format!("#{}", me.uid), format!("#{}", me.gid))
}
