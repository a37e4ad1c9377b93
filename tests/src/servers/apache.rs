//! Apache with mod_dav: one folder behind Basic (`/basic`), Digest (`/digest`) and no login (`/open`), without and with TLS.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::account;
use super::port::Port;
use super::process::{Process, Recipe, accepts};
use super::tool::{certificates, fed, run};
use crate::sandbox::files;

pub const USER: &str = "Jürgen";
/// With characters that a careless client splits or decodes.
pub const PASSWORD: &str = "pass:wörd %41&";
const REALM: &str = "offsite tests";
const MODULES: &str = "/usr/lib/apache2/modules";

/// Which login a URL leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    None,
    Basic,
    Digest,
}

impl Login {
    fn path(self) -> &'static str {
        match self {
            Self::None => "open",
            Self::Basic => "basic",
            Self::Digest => "digest",
        }
    }
}

pub struct Apache {
    process: Process,
    plain: Port,
    tls: Port,
    dir: tempfile::TempDir,
}

impl Default for Apache {
    fn default() -> Self {
        Self::start()
    }
}

impl Apache {
    #[track_caller]
    pub fn start() -> Self {
        Self::with_lines(&[])
    }

    /// With more lines of configuration for the served folder, for example `LimitRequestBody 1000`.
    #[track_caller]
    pub fn with_lines(lines: &[&str]) -> Self {
        Self::made(lines, "")
    }

    /// TLS for a server that has none itself (S3): whatever arrives there is passed on as it is, with its `Host`.
    #[track_caller]
    pub fn in_front_of(upstream: SocketAddr) -> Self {
        let tls = format!(
            "ProxyPreserveHost On\nAllowEncodedSlashes NoDecode\nProxyPass / http://{upstream}/ nocanon\n"
        );
        Self::made(&[], &tls)
    }

    #[track_caller]
    fn made(lines: &[&str], tls_lines: &str) -> Self {
        let program = super::installed("/usr/sbin/apache2", "Apache");
        let dir = super::folder("apache");
        let recipe = Recipe::new("apache2", &program, dir.path().join("log"))
            .args(["-DFOREGROUND", "-d"])
            .args([dir.path()])
            .args(["-f"])
            .args([dir.path().join("conf")]);
        let mut server = Self { process: Process::new(recipe), plain: Port::take(), tls: Port::take(), dir };
        certificates(server.dir.path());
        server.write(lines, tls_lines);
        server.make_data();
        server.up();
        server
    }

    fn write(&self, lines: &[&str], tls_lines: &str) {
        let dir = self.dir.path().display();
        let modules = [
            "mpm_event",
            "authn_core",
            "authn_file",
            "authz_core",
            "authz_user",
            "auth_basic",
            "auth_digest",
            "dav",
            "dav_fs",
            "alias",
            "dir",
            "mime",
            "ssl",
            "socache_shmcb",
            "headers",
            "setenvif",
            "proxy",
            "proxy_http",
        ];
        let mut text: String =
            modules.iter().map(|m| format!("LoadModule {m}_module {MODULES}/mod_{m}.so\n")).collect();
        // The worker processes give up root's privileges; a test's own user has none.
        if account::root() {
            text += "User www-data\nGroup www-data\n";
        }
        text += &format!(
            "ServerName localhost\nDefaultRuntimeDir {dir}\nPidFile {dir}/pid\nErrorLog {dir}/errors\nLogLevel info\n\
             LogFormat \"%m %U %s %I %{{c}}L\" all\nStartServers 1\nThreadsPerChild 25\nMaxRequestWorkers 50\nServerLimit 2\n\
             Listen 127.0.0.1:{plain}\nListen 127.0.0.1:{tls}\nDocumentRoot {data}\nDavLockDB {dir}/locks/db\n\
             SSLSessionCache shmcb:{dir}/tls_sessions(512000)\nTypesConfig /dev/null\n\
             <VirtualHost *:{tls}>\nSSLEngine on\nSSLCertificateFile {dir}/server.pem\nSSLCertificateKeyFile {dir}/server.key\n\
             {tls_lines}</VirtualHost>\nLimitRequestBody 0\n<Directory {data}>\nDav On\nDavMinTimeout 600\nRequire all granted\n{lines}\n\
             </Directory>\n",
            plain = self.plain.number(),
            tls = self.tls.number(),
            data = self.data().display(),
            lines = lines.join("\n"),
        );
        for login in [Login::None, Login::Basic, Login::Digest] {
            let path = login.path();
            text += &format!("Alias /{path} {}\n<Location /{path}>\n", self.data().display());
            text += &match login {
                Login::None => "Require all granted\n".to_owned(),
                Login::Basic => format!(
                    "AuthType Basic\nAuthName \"{REALM}\"\nAuthBasicProvider file\nAuthUserFile {dir}/users\nRequire valid-user\n"
                ),
                Login::Digest => format!(
                    "AuthType Digest\nAuthName \"{REALM}\"\nAuthDigestProvider file\nAuthUserFile {dir}/digests\n\
                     AuthDigestDomain /digest\nRequire valid-user\n"
                ),
            };
            text += "</Location>\n";
        }
        fs::write(self.dir.path().join("conf"), text).expect("the folder is writable");
        let hash = fed(&["openssl", "passwd", "-apr1", "-stdin"], PASSWORD);
        fs::write(self.dir.path().join("users"), format!("{USER}:{}\n", hash.trim())).expect("writable");
        let digest = fed(&["md5sum"], &format!("{USER}:{REALM}:{PASSWORD}"));
        let digest = digest.split(' ').next().unwrap_or_default();
        fs::write(self.dir.path().join("digests"), format!("{USER}:{REALM}:{digest}\n")).expect("writable");
        self.own(&self.dir.path().join("locks"));
    }

    /// A folder that the server may write to.
    fn own(&self, folder: &Path) {
        fs::create_dir(folder).expect("a folder");
        if account::root() {
            run(Command::new("chown").arg("www-data:www-data").arg(folder));
        }
    }

    fn make_data(&self) {
        self.own(&self.data());
    }

    #[track_caller]
    fn up(&mut self) {
        let addresses = [self.address(), self.tls_address()];
        self.process.start(|| addresses.iter().all(|a| accepts(*a)));
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.plain.number()).into()
    }

    pub fn tls_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.tls.number()).into()
    }

    /// The folder that every URL names: what the server keeps is read here, without the server.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// `http://J%C3%BCrgen@127.0.0.1:port/basic/`
    pub fn url(&self, login: Login) -> String {
        self.url_at(self.address(), login)
    }

    /// The same place with TLS; trusted with [`Apache::ca_file`].
    pub fn tls_url(&self, login: Login) -> String {
        self.url_at(self.tls_address(), login).replacen("http", "https", 1)
    }

    /// The same place through another address, a proxy's.
    pub fn url_at(&self, address: SocketAddr, login: Login) -> String {
        let user = if login == Login::None { "" } else { "J%C3%BCrgen@" };
        format!("http://{user}{address}/{}/", login.path())
    }

    /// The certificate that signed the server's; PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The configuration file, read at each start.
    pub fn conf(&self) -> PathBuf {
        self.dir.path().join("conf")
    }

    /// Of the server's certificate: hexadecimal digits with colons, as OpenSSL shows it.
    pub fn fingerprint(&self) -> String {
        let output = Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(self.dir.path().join("server.pem"))
            .output()
            .expect("openssl is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.trim().rsplit('=').next().expect("a fingerprint").to_owned()
    }

    /// Gives what a test put there to the server.
    pub fn own_data(&self) {
        if account::root() {
            run(Command::new("chown").arg("-R").arg("www-data:www-data").arg(self.data()));
        }
    }

    /// Waits until the server has removed the temporary files of uploads that were cut off (`.davfs.tmp…`, its own affair).
    #[track_caller]
    pub fn tidied(&self) {
        let start = Instant::now();
        while files(&self.data())
            .iter()
            .any(|f| f.file_name().is_some_and(|n| n.as_bytes().starts_with(b".davfs.tmp")))
        {
            assert!(start.elapsed() < Duration::from_secs(20), "Apache keeps its temporary files");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        let errors = fs::read(self.dir.path().join("errors")).unwrap_or_default();
        format!("{}{}", self.process.log(), String::from_utf8_lossy(&errors))
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

    /// Throws away what it holds.
    pub fn reset(&mut self) {
        fs::remove_dir_all(self.data()).expect("the data can be removed");
        self.make_data();
    }
}
