//! Every backend on a real server of its own, for scenarios that are the same for all: how the program reaches it, and
//! how a test looks at what lies there (or changes it, as another machine would) without the plugin under test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::program::Offsite;
use crate::proxy::Proxy;
use crate::sandbox::{Sandbox, debris, files, hash};
use crate::servers::account::account;
use crate::servers::apache::{self, Apache, Login};
use crate::servers::ftp::{Settings, Tls};
use crate::servers::garage::{Garage, Service};
use crate::servers::nextcloud::{self, Nextcloud};
use crate::servers::proftpd::{self, Proftpd};
use crate::servers::samba::{self, Samba};
use crate::servers::sshd::Sshd;
use crate::servers::vsftpd::Vsftpd;

/// What a user writes to reach a target.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    pub url: String,
    /// The plugin's options.
    pub options: Vec<(String, String)>,
    /// Its secrets, by option name.
    pub secrets: Vec<(String, String)>,
}

impl Reach {
    pub fn new(url: String) -> Self {
        Self { url, ..Self::default() }
    }

    pub fn option(mut self, key: &str, value: impl ToString) -> Self {
        self.options.push((key.into(), value.to_string()));
        self
    }

    pub fn secret(mut self, name: &str, value: &str) -> Self {
        self.secrets.push((name.into(), value.into()));
        self
    }

    /// Adds `--to`, `--option` and `--credential`; secrets go through the environment.
    pub fn apply(&self, mut command: Offsite) -> Offsite {
        command = command.args(["--to", &self.url]);
        for (key, value) in &self.options {
            command = command.args(["--option", &format!("{key}={value}")]);
        }
        for (name, value) in &self.secrets {
            let variable = format!("OFFSITE_TEST_{}", name.to_uppercase());
            command = command.args(["--credential", &format!("{name}=env:{variable}")]).env(&variable, value);
        }
        command
    }

    /// `offsite run --source … --settle 0 --json` to this one target.
    pub fn run(&self, box_: &Sandbox) -> Offsite {
        self.apply(box_.run(&[]))
    }

    /// `offsite check --json` of this one target.
    pub fn check(&self, box_: &Sandbox) -> Offsite {
        self.apply(box_.offsite().args(["check", "--json", "--source", &box_.text("source")]))
    }
}

/// A server with one empty target on it.
pub trait Backend: Sized {
    fn start() -> Self;

    fn reach(&self) -> Reach;

    /// Shows the target as a folder, as it is now. Changes to the folder may be lost.
    fn look<T>(&self, what: impl FnOnce(&Path) -> T) -> T;

    /// Lets another machine change the target's files.
    fn change(&self, what: impl FnOnce(&Path));

    /// The server falls over and comes back: of everything staged, what it held from one offset up to another is zeros.
    /// Gives the bytes lost.
    fn lose(&self, from: u64, to: u64) -> u64 {
        let mut lost = 0;
        self.change(|dir| {
            lost = debris(dir).iter().map(|path| zero(&dir.join(path), from, to)).sum();
        });
        lost
    }

    /// Uploads that the server keeps where no listing of files shows them.
    fn unfinished(&self) -> usize {
        0
    }
}

/// A backend behind an address, so that a proxy can stand before it.
pub trait Network: Backend {
    fn address(&self) -> SocketAddr;

    /// A fault proxy before it, for [`Network::through`].
    fn proxy(&self) -> Proxy {
        Proxy::start(self.address())
    }

    /// The same under an IPv6 address.
    fn proxy_over_ipv6(&self) -> Proxy {
        Proxy::over_ipv6(self.address(), [])
    }

    /// How to reach it through a proxy that listens there.
    fn through(&self, proxy: SocketAddr) -> Reach;

    /// A server that is reached with secrets that the program is given.
    fn start_with_secrets() -> (Self, Reach);

    /// Bytes that a kill may cost at most, with `streams` transfers at once.
    fn at_stake(streams: u64) -> u64;
}

pub struct Folder(tempfile::TempDir);

impl Backend for Folder {
    fn start() -> Self {
        Self(tempfile::Builder::new().prefix("offsite-folder-").tempdir().expect("a temporary folder"))
    }

    fn reach(&self) -> Reach {
        Reach::new(self.0.path().to_string_lossy().into_owned())
    }

    fn look<T>(&self, what: impl FnOnce(&Path) -> T) -> T {
        what(self.0.path())
    }

    fn change(&self, what: impl FnOnce(&Path)) {
        what(self.0.path());
    }
}

/// OpenSSH's sshd, by key.
pub struct Sftp(pub Sshd);

impl Backend for Sftp {
    fn start() -> Self {
        Self(Sshd::start())
    }

    fn reach(&self) -> Reach {
        self.through(self.0.address())
    }

    fn look<T>(&self, what: impl FnOnce(&Path) -> T) -> T {
        what(&self.0.data())
    }

    fn change(&self, what: impl FnOnce(&Path)) {
        what(&self.0.data());
    }
}

impl Network for Sftp {
    fn address(&self) -> SocketAddr {
        self.0.address()
    }

    fn through(&self, proxy: SocketAddr) -> Reach {
        self.0.know(&proxy.ip().to_string(), proxy.port());
        Reach::new(self.0.url_at(proxy))
            .option("key_file", self.0.key().display())
            .option("known_hosts", self.0.known_hosts().display())
    }

    fn start_with_secrets() -> (Self, Reach) {
        let server = Sshd::with_account();
        let known_hosts = server.known_hosts();
        let reach = Reach::new(server.url()).option("known_hosts", known_hosts.display());
        (Self(server), reach.secret("password", &account().password))
    }

    fn at_stake(_: u64) -> u64 {
        64 << 20
    }
}

/// Garage, in a folder of its bucket.
pub struct S3(pub Garage);

const FOLDER: &str = "nightly/copies/";

impl Backend for S3 {
    fn start() -> Self {
        Self(Garage::start())
    }

    fn reach(&self) -> Reach {
        self.through(self.0.service().address)
    }

    fn look<T>(&self, what: impl FnOnce(&Path) -> T) -> T {
        let copy = tempfile::tempdir().expect("a temporary folder");
        self.0.client().download(FOLDER, copy.path());
        what(copy.path())
    }

    fn change(&self, what: impl FnOnce(&Path)) {
        let client = self.0.client();
        let copy = tempfile::tempdir().expect("a temporary folder");
        client.download(FOLDER, copy.path());
        let before = all(copy.path());
        what(copy.path());
        let after = all(copy.path());
        let key = |path: &Path| [FOLDER.as_bytes(), path.as_os_str().as_bytes()].concat();
        for path in before.keys().filter(|path| !after.contains_key(*path)) {
            client.delete(&key(path));
        }
        for (path, content) in &after {
            if before.get(path) != Some(content) {
                client.put(&key(path), &std::fs::read(copy.path().join(path)).expect("the file is there"));
            }
        }
    }

    fn unfinished(&self) -> usize {
        self.0.client().uploads().len()
    }
}

impl Network for S3 {
    fn address(&self) -> SocketAddr {
        self.0.service().address
    }

    fn through(&self, proxy: SocketAddr) -> Reach {
        reach_s3(&self.0.service().at(proxy), FOLDER)
    }

    fn start_with_secrets() -> (Self, Reach) {
        let backend = Self::start();
        let reach = backend.reach();
        (backend, reach)
    }

    fn at_stake(streams: u64) -> u64 {
        streams * (16 << 20)
    }
}

/// Apache's mod_dav with TLS and Digest.
pub struct WebDav(pub Apache);

impl Backend for WebDav {
    fn start() -> Self {
        Self(Apache::start())
    }

    fn reach(&self) -> Reach {
        self.through(self.0.tls_address())
    }

    fn look<T>(&self, what: impl FnOnce(&Path) -> T) -> T {
        let own = |dir: &Path| -> Vec<PathBuf> {
            let temporary = |path: &PathBuf| path.to_string_lossy().contains(".davfs.tmp");
            files(dir).into_iter().filter(temporary).map(|path| dir.join(path)).collect()
        };
        if own(&self.0.data()).is_empty() {
            return what(&self.0.data());
        }
        // What mod_dav is receiving lies in a file of its own until the connection ends: no affair of the program's.
        let copy =
            tempfile::tempdir_in(self.0.data().parent().expect("it has one")).expect("a temporary folder");
        let to = copy.path().join("data");
        // One that vanishes meanwhile is none of those that a test looks for.
        let linked = std::process::Command::new("cp").arg("-al").arg(self.0.data()).arg(&to).status();
        assert!(linked.is_ok() && to.is_dir(), "cp -al works within a folder");
        for path in own(&to) {
            std::fs::remove_file(path).expect("the copy is ours");
        }
        what(&to)
    }

    fn change(&self, what: impl FnOnce(&Path)) {
        what(&self.0.data());
        self.0.own_data();
    }
}

impl Network for WebDav {
    fn address(&self) -> SocketAddr {
        self.0.tls_address()
    }

    fn through(&self, proxy: SocketAddr) -> Reach {
        Reach::new(self.0.url_at(proxy, Login::Digest).replacen("http", "https", 1))
            .option("ca_file", self.0.ca_file().display())
            .secret("password", apache::PASSWORD)
    }

    fn start_with_secrets() -> (Self, Reach) {
        let backend = Self::start();
        let reach = backend.reach();
        (backend, reach)
    }

    fn at_stake(_: u64) -> u64 {
        64 << 20
    }
}

macro_rules! ftp {
    ($(#[$doc:meta])* $name:ident($server:ty), $tls:expr, |$it:ident| $password:expr) => {
        $(#[$doc])*
        pub struct $name(pub $server);

        impl Backend for $name {
            fn start() -> Self {
                Self(<$server>::with(Settings::tls($tls)))
            }

            fn reach(&self) -> Reach {
                self.through(self.0.address())
            }

            fn look<T>(&self, what: impl FnOnce(&Path) -> T) -> T {
                what(&self.0.data())
            }

            fn change(&self, what: impl FnOnce(&Path)) {
                what(&self.0.data());
                self.0.own_data();
            }
        }

        impl Network for $name {
            fn address(&self) -> SocketAddr {
                self.0.address()
            }

            fn proxy(&self) -> Proxy {
                self.0.proxy()
            }

            fn proxy_over_ipv6(&self) -> Proxy {
                let (first, last) = self.0.ports().passive();
                Proxy::over_ipv6(self.address(), first..=last)
            }

            fn through(&self, proxy: SocketAddr) -> Reach {
                let $it = &self.0;
                let reach = Reach::new(self.0.url_at(proxy)).secret("password", $password);
                match self.0.settings().tls {
                    Tls::None => reach,
                    Tls::Explicit => reach.option("ca_file", self.0.ca_file().display()),
                    Tls::Implicit => reach.option("ca_file", self.0.ca_file().display()).option("tls", "implicit"),
                }
            }

            fn start_with_secrets() -> (Self, Reach) {
                let backend = Self::start();
                let reach = backend.reach();
                (backend, reach)
            }

            fn at_stake(_: u64) -> u64 {
                64 << 20
            }
        }
    };
}

ftp! {
    /// vsftpd without TLS: no MLSD, no digests.
    Ftp(Vsftpd), Tls::None, |server| server.password()
}
ftp! {
    /// vsftpd with TLS, and data connections that must continue its session.
    Ftps(Vsftpd), Tls::Explicit, |server| server.password()
}
ftp! {
    /// ProFTPD with TLS, MLSD and digest commands.
    FtpsMlsd(Proftpd), Tls::Explicit, |_server| proftpd::PASSWORD
}

/// The double of a Nextcloud.
pub struct Cloud(pub Nextcloud);

impl Backend for Cloud {
    fn start() -> Self {
        Self(Nextcloud::start())
    }

    fn reach(&self) -> Reach {
        self.through(self.0.address())
    }

    fn look<T>(&self, what: impl FnOnce(&Path) -> T) -> T {
        what(&self.0.data())
    }

    fn change(&self, what: impl FnOnce(&Path)) {
        what(&self.0.data());
    }

    fn unfinished(&self) -> usize {
        self.0.uploads().len()
    }

    /// Chunks lie in files of their own: the second one of each upload.
    fn lose(&self, _: u64, _: u64) -> u64 {
        let chunk = |upload: &PathBuf| {
            let mut chunks: Vec<PathBuf> = files(upload).into_iter().map(|name| upload.join(name)).collect();
            chunks.sort();
            chunks.into_iter().nth(1)
        };
        self.0.uploads().iter().filter_map(chunk).map(|path| zero(&path, 0, u64::MAX)).sum()
    }
}

impl Network for Cloud {
    fn address(&self) -> SocketAddr {
        self.0.address()
    }

    fn through(&self, proxy: SocketAddr) -> Reach {
        Reach::new(self.0.url_at(proxy)).secret("password", nextcloud::PASSWORD)
    }

    fn start_with_secrets() -> (Self, Reach) {
        let backend = Self::start();
        let reach = backend.reach();
        (backend, reach)
    }

    fn at_stake(streams: u64) -> u64 {
        streams * (16 << 20)
    }
}

/// Overwrites a range of a file with zeros, as far as the file reaches. Gives how many.
pub fn zero(path: &Path, from: u64, to: u64) -> u64 {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("the staged file is there");
    let end = to.min(file.metadata().expect("it has a size").len());
    let lost = end.saturating_sub(from);
    file.write_all_at(&vec![0; lost as usize], from).expect("it can be written");
    lost
}

/// How an S3 service is reached, with its own keys.
pub fn reach_s3(service: &Service, folder: &str) -> Reach {
    Reach::new(format!("s3+http://{}/{}/{folder}", service.address, service.bucket))
        .option("region", &service.region)
        .secret("access_key_id", &service.access_key)
        .secret("secret_access_key", &service.secret_key)
}

/// Every file below `dir` with its hash, `offsite`'s own included.
fn all(dir: &Path) -> BTreeMap<PathBuf, String> {
    files(dir).into_iter().map(|path| (path.clone(), hash(&dir.join(&path)))).collect()
}

/// A name of exactly `length` bytes around `text`: `prefix`, filler, `suffix`.
pub fn long_name(prefix: &str, suffix: &str, length: usize) -> String {
    let filler = length.checked_sub(prefix.len() + suffix.len()).expect("the length holds prefix and suffix");
    let name = format!("{prefix}{}{suffix}", "ü".repeat(filler / 2) + &"x".repeat(filler % 2));
    assert_eq!(name.len(), length);
    name
}

/// Samba, in a folder of its share.
pub struct Smb(pub Samba);

impl Backend for Smb {
    fn start() -> Self {
        Self(Samba::start())
    }

    fn reach(&self) -> Reach {
        self.through(self.0.address())
    }

    fn look<T>(&self, what: impl FnOnce(&Path) -> T) -> T {
        what(&self.0.data())
    }

    fn change(&self, what: impl FnOnce(&Path)) {
        what(&self.0.data());
    }
}

impl Network for Smb {
    fn address(&self) -> SocketAddr {
        self.0.address()
    }

    fn through(&self, proxy: SocketAddr) -> Reach {
        Reach::new(self.0.url_at(proxy, samba::SHARE)).secret("password", samba::PASSWORD)
    }

    fn start_with_secrets() -> (Self, Reach) {
        let backend = Self::start();
        let reach = backend.reach();
        (backend, reach)
    }

    fn at_stake(_: u64) -> u64 {
        64 << 20
    }
}
