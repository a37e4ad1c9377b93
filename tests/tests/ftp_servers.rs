//! The FTP servers of the harness and the proxy before them, seen by curl: what the plugin's tests stand on.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::io::Write;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use offsite_tests::program::{children, wait_until};
use offsite_tests::proxy::{Direction, Proxy};
use offsite_tests::servers::ftp::{Settings, Tls};
use offsite_tests::servers::proftpd::Proftpd;
use offsite_tests::servers::vsftpd::Vsftpd;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// Either server, for what both owe.
trait Server {
    fn with(settings: Settings) -> Self;
    fn address(&self) -> SocketAddr;
    fn login(&self) -> String;
    fn data(&self) -> PathBuf;
    fn ca_file(&self) -> PathBuf;
    fn tls(&self) -> Tls;
    fn proxy(&self) -> Proxy;
    fn log(&self) -> String;
    fn kill(&mut self);
    fn restart(&mut self);
    fn reset(&mut self);
    fn pid(&self) -> u32;
}

macro_rules! server {
    ($server:ty) => {
        impl Server for $server {
            fn with(settings: Settings) -> Self {
                <$server>::with(settings)
            }

            fn address(&self) -> SocketAddr {
                <$server>::address(self)
            }

            fn login(&self) -> String {
                format!("{}:{}", self.user(), self.password())
            }

            fn data(&self) -> PathBuf {
                <$server>::data(self)
            }

            fn ca_file(&self) -> PathBuf {
                <$server>::ca_file(self)
            }

            fn tls(&self) -> Tls {
                self.settings().tls
            }

            fn proxy(&self) -> Proxy {
                <$server>::proxy(self)
            }

            fn log(&self) -> String {
                <$server>::log(self)
            }

            fn kill(&mut self) {
                <$server>::kill(self);
            }

            fn restart(&mut self) {
                <$server>::restart(self);
            }

            fn reset(&mut self) {
                <$server>::reset(self);
            }

            fn pid(&self) -> u32 {
                self.process().pid().unwrap()
            }
        }
    };
}
server!(Vsftpd);
server!(Proftpd);

/// Curl on its way; the password goes through its standard input.
fn curl(server: &impl Server, address: SocketAddr, path: &str, arguments: &[&str]) -> Child {
    let scheme = if server.tls() == Tls::Implicit { "ftps" } else { "ftp" };
    let ca_file = server.ca_file().display().to_string();
    let trust: &[&str] = if server.tls() == Tls::None { &[] } else { &["--ssl-reqd", "--cacert", &ca_file] };
    let mut child = Command::new("curl")
        .args(["--silent", "--show-error", "--disable", "--config", "-", "--ftp-method", "nocwd"])
        .args(["--connect-timeout", "20", "--retry", "0"])
        .args(trust)
        .args(arguments)
        .arg(format!("{scheme}://{address}/{path}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("curl is installed");
    let quoted = server.login().replace('\\', "\\\\").replace('"', "\\\"");
    writeln!(child.stdin.take().unwrap(), "user = \"{quoted}\"").unwrap();
    child
}

/// What curl got, or what it complained about.
fn ended(child: Child) -> Result<Vec<u8>, String> {
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into())
    }
}

#[track_caller]
fn get(server: &impl Server, path: &str, arguments: &[&str]) -> Vec<u8> {
    let got = ended(curl(server, server.address(), path, arguments));
    got.unwrap_or_else(|e| panic!("{path}: {e}\n{}", server.log()))
}

fn put(server: &impl Server, address: SocketAddr, file: &Path, path: &str) -> Result<Vec<u8>, String> {
    ended(curl(server, address, path, &["--upload-file", &file.to_string_lossy()]))
}

/// Zeros: what arrives is counted, not compared.
fn zeros(dir: &Path, size: u64) -> PathBuf {
    let path = dir.join("zeros");
    fs::File::create(&path).unwrap().set_len(size).unwrap();
    path
}

fn serves<S: Server>(settings: Settings) {
    let (mut one, two) = (S::with(settings.clone()), S::with(settings));
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("file");
    fs::write(&file, b"some content").unwrap();
    let sent = put(&one, one.address(), &file, "stored%20%C3%A9");
    assert!(sent.is_ok(), "{sent:?}\n{}", one.log());
    assert_eq!(fs::read(one.data().join("stored \u{e9}")).unwrap(), b"some content");
    assert_eq!(fs::read_dir(two.data()).unwrap().count(), 0, "two servers keep their files apart");
    assert_eq!(get(&one, "stored%20%C3%A9", &[]), b"some content");
    let listing = String::from_utf8(get(&one, "", &["--list-only"])).unwrap();
    assert_eq!(listing.trim(), "stored \u{e9}");
    one.restart();
    assert_eq!(get(&one, "stored%20%C3%A9", &["--range", "5-"]), b"content");
    one.kill();
    assert!(put(&one, one.address(), &file, "more").is_err());
    one.restart();
    one.reset();
    assert_eq!(get(&one, "", &["--list-only"]), b"");
    assert_eq!(get(&two, "", &["--list-only"]), b"");
}

#[test]
fn vsftpd_serves_plain_and_with_either_tls() {
    for tls in [Tls::None, Tls::Explicit, Tls::Implicit] {
        serves::<Vsftpd>(Settings::tls(tls));
    }
}

#[test]
fn proftpd_serves_plain_and_with_either_tls() {
    for tls in [Tls::None, Tls::Explicit, Tls::Implicit] {
        serves::<Proftpd>(Settings::tls(tls));
    }
}

#[test]
fn both_serve_on_ipv6() {
    let settings = Settings { address: Ipv6Addr::LOCALHOST.into(), tls: Tls::Explicit, lines: Vec::new() };
    serves::<Vsftpd>(settings.clone());
    serves::<Proftpd>(settings);
}

/// What the server says it can do; curl's `--verbose` shows the answers.
fn says<S: Server>(server: &S, commands: &[&str]) -> String {
    let mut arguments = vec!["--verbose", "--list-only"];
    for command in commands {
        arguments.extend(["--quote", command]);
    }
    let output = curl(server, server.address(), "", &arguments).wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_two_differ_in_listings_and_digests_as_the_plugin_must_expect() {
    let vsftpd = says(&Vsftpd::start(), &["FEAT"]);
    assert!(vsftpd.contains("211 End") && !vsftpd.contains("MLS") && !vsftpd.contains("HASH"), "{vsftpd}");
    let proftpd = says(&Proftpd::start(), &["FEAT"]);
    assert!(proftpd.contains("MLST") && proftpd.contains("HASH"), "{proftpd}");
}

/// Curl without TLS, with a wrong password, and with a data connection whose session is a new one.
fn refuses<S: Server>() {
    let server = S::with(Settings::tls(Tls::Explicit));
    let bare = Command::new("curl")
        .args(["-sS", "--user", &server.login(), &format!("ftp://{}/", server.address())])
        .output()
        .unwrap();
    assert!(!bare.status.success(), "a login without TLS: {}", server.log());
    let fresh = ended(curl(&server, server.address(), "", &["--list-only", "--no-sessionid"]));
    assert!(fresh.is_err(), "a data connection with a session of its own: {}", server.log());
    let wrong = ended(curl(&server, server.address(), "", &["--list-only", "--user", "offsite-test:wrong"]));
    assert!(wrong.is_err(), "{}", server.log());
}

#[test]
fn both_refuse_bare_logins_and_data_connections_of_another_session() {
    refuses::<Vsftpd>();
    refuses::<Proftpd>();
}

/// Data connections pass the proxy: counted, held to a rate, cut and frozen.
fn data_passes_the_proxy<S: Server>(tls: Tls) {
    let server = S::with(Settings::tls(tls));
    let work = tempfile::tempdir().unwrap();
    let file = zeros(work.path(), 8 * MIB);
    let proxy = server.proxy();
    let sent = put(&server, proxy.address(), &file, "one");
    assert!(sent.is_ok(), "{sent:?}\n{}", server.log());
    assert_eq!(fs::metadata(server.data().join("one")).unwrap().len(), 8 * MIB);
    let up = proxy.count(Direction::Up);
    assert!((8 * MIB..9 * MIB).contains(&up), "{up}");
    assert_eq!(proxy.connections(), 2, "control and data");

    proxy.throttle(Some(4_000_000));
    let start = Instant::now();
    assert!(put(&server, proxy.address(), &file, "slow").is_ok());
    assert!(start.elapsed() > Duration::from_millis(1500), "{:?}", start.elapsed());
    proxy.throttle(None);

    let at = proxy.count(Direction::Up) + 5 * MIB;
    proxy.cut_at(Direction::Up, at);
    assert!(put(&server, proxy.address(), &file, "cut").is_err());
    assert_eq!(proxy.count(Direction::Up), at);
    // ProFTPD throws away what it has not read yet when the control connection ends.
    let cut = || fs::metadata(server.data().join("cut")).map_or(0, |m| m.len());
    wait_until("some of it is there", LIMIT, || cut() > 0);
    assert!(cut() < 5 * MIB, "{}", cut());

    let before = proxy.count(Direction::Up);
    proxy.freeze_at(Direction::Up, before + 3 * MIB);
    let frozen = curl(&server, proxy.address(), "frozen", &["--upload-file", &file.to_string_lossy()]);
    wait_until("the line is frozen", LIMIT, || proxy.frozen());
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(proxy.count(Direction::Up), before + 3 * MIB);
    proxy.freeze(false);
    assert!(ended(frozen).is_ok());
    assert_eq!(fs::metadata(server.data().join("frozen")).unwrap().len(), 8 * MIB);
}

#[test]
fn data_connections_pass_the_proxy() {
    data_passes_the_proxy::<Vsftpd>(Tls::None);
    data_passes_the_proxy::<Vsftpd>(Tls::Explicit);
    data_passes_the_proxy::<Proftpd>(Tls::Explicit);
}

/// The process that holds the servers is killed without a chance to clean up: they must go, too.
#[test]
fn a_killed_test_leaves_no_ftp_server_behind() {
    if let Some(said) = std::env::var_os("OFFSITE_TEST_HOLD") {
        let (one, two) = (Vsftpd::start(), Proftpd::start());
        let written = Path::new(&said).with_extension("new");
        fs::write(&written, format!("{} {}", Server::pid(&one), Server::pid(&two))).unwrap();
        fs::rename(written, said).unwrap();
        std::thread::sleep(LIMIT);
        panic!("nobody killed this");
    }
    let dir = tempfile::tempdir().unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let said = dir.path().join("pids");
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_test_leaves_no_ftp_server_behind"])
        .env("OFFSITE_TEST_HOLD", &said)
        .env("TMPDIR", dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the servers run", LIMIT, || said.exists());
    let pids = fs::read_to_string(&said).unwrap();
    let started: Vec<String> = children(holder.id()).iter().map(|(child, _)| child.to_string()).collect();
    holder.kill().unwrap();
    holder.wait().unwrap();
    for pid in pids.split(' ') {
        assert!(started.iter().any(|child| child == pid), "{pid} is none of {started:?}");
        wait_until("the server is gone", LIMIT, || {
            // A zombie waiting for whoever adopted it does not serve any more.
            fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
        });
    }
}
