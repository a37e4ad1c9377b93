//! vsftpd: plain, or with TLS that data connections must continue. It has no MLSD and no digests, and hides names with
//! a leading dot unless asked. The account without privileges logs in, with its password; that needs root.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::account::{self, Account};
use super::ftp::{Ports, Settings, Tls, greets, url};
use super::process::{Process, Recipe};
use super::tool::{certificates, run};
use crate::proxy::Proxy;

pub struct Vsftpd {
    process: Process,
    ports: Ports,
    settings: Settings,
    account: Account,
    dir: tempfile::TempDir,
}

impl Default for Vsftpd {
    fn default() -> Self {
        Self::start()
    }
}

impl Vsftpd {
    /// Without TLS.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(Settings::default())
    }

    #[track_caller]
    pub fn with(settings: Settings) -> Self {
        let program = super::installed("/usr/sbin/vsftpd", "vsftpd");
        let dir = super::folder("vsftpd");
        let recipe =
            Recipe::new("vsftpd", &program, dir.path().join("log")).args([dir.path().join("vsftpd.conf")]);
        let process = Process::new(recipe);
        let mut server = Self { process, ports: Ports::take(), settings, account: account::account(), dir };
        server.write();
        server.make_data();
        server.up();
        server
    }

    fn write(&self) {
        let dir = self.dir.path().display();
        fs::create_dir(self.dir.path().join("empty")).expect("a folder");
        let (first, last) = self.ports.passive();
        let (listen, address) = match self.settings.address.is_ipv6() {
            false => ("listen=YES\nlisten_ipv6=NO", "listen_address"),
            true => ("listen=NO\nlisten_ipv6=YES", "listen_address6"),
        };
        let mut text = format!(
            "background=NO\n{listen}\n{address}={}\nlisten_port={}\npasv_min_port={first}\npasv_max_port={last}\n\
             port_enable=NO\nanonymous_enable=NO\nlocal_enable=YES\nwrite_enable=YES\nlocal_umask=022\n\
             local_root={}\npam_service_name=vsftpd\nsecure_chroot_dir={dir}/empty\nisolate=NO\n\
             isolate_network=NO\nseccomp_sandbox=NO\ntcp_wrappers=NO\nutf8_filesystem=YES\nmdtm_write=YES\n\
             xferlog_enable=YES\nxferlog_std_format=NO\nlog_ftp_protocol=YES\nvsftpd_log_file={dir}/server.log\n",
            self.settings.address,
            self.ports.control(),
            self.data().display(),
        );
        if self.settings.tls != Tls::None {
            certificates(self.dir.path());
            // The default, triple DES, is in no library any more.
            text += &format!(
                "ssl_enable=YES\nssl_ciphers=HIGH\nssl_tlsv1=YES\nrequire_ssl_reuse=YES\nforce_local_logins_ssl=YES\n\
                 force_local_data_ssl=YES\nrsa_cert_file={dir}/server.pem\nrsa_private_key_file={dir}/server.key\n",
            );
        }
        if self.settings.tls == Tls::Implicit {
            text += "implicit_ssl=YES\n";
        }
        text.extend(self.settings.lines.iter().map(|line| format!("{line}\n")));
        fs::write(self.dir.path().join("vsftpd.conf"), text).expect("the folder is writable");
    }

    fn make_data(&self) {
        fs::create_dir(self.data()).expect("a folder");
        self.account.own(&self.data());
    }

    pub fn password(&self) -> &str {
        &self.account.password
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
