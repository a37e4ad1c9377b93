//! One control connection, logged in: commands with their replies, and one transfer at a time.

use std::io::Read;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use offsite_plugin_api::{Call, Error, ErrorKind, Result};
use suppaftp::types::FileType;
use suppaftp::{DataStream, FtpError, FtpResult, ImplFtpStream, Mode, Status, TransferStream};

use super::config::{Passive, Tls};
use super::dial;
use super::error::{Fault, failed, refused_login};
use super::names::{Bytes, text};
use super::pool::Shared;
use super::reply::Reply;
use super::tls::{Connector, Secured, Seen};
use super::watch::{Sockets, watched};

/// Replies that open a transfer.
const OPENS: [Status; 2] = [Status::AboutToSend, Status::AlreadyOpen];

pub type Transfer = TransferStream<Secured>;

/// What the server says it can do (FEAT, RFC 2389), and how it greets.
#[derive(Clone, Debug, Default)]
pub struct Features {
    pub mlst: bool,
    pub mfmt: bool,
    pub mdtm: bool,
    pub utf8: bool,
    pub avbl: bool,
    epsv: bool,
    /// Algorithm as the contract names it, and how the server computes it of a whole file.
    pub digests: Vec<(String, DigestBy)>,
    /// First line of the greeting, harmless.
    pub greeting: String,
}

impl Features {
    /// `reply`: to FEAT; anything but a list of features says that there are none (RFC 2389 3.2).
    fn new(reply: &Reply, greeting: &str) -> Self {
        let reply = if reply.code == 211 { text(&reply.bytes) } else { String::new() };
        // Between the first line and the last; each has a space before it, or the code, or nothing.
        let lines = reply.lines().skip(1).filter(|line| !line.starts_with("211 "));
        let found: Vec<(&str, &str)> = lines
            .map(|line| line.strip_prefix("211-").unwrap_or(line).trim())
            .map(|line| line.split_once(' ').unwrap_or((line, "")))
            .collect();
        let value =
            |name: &str| found.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| *v);
        let has = |name: &str| value(name).is_some();
        // draft-bryan-ftpext-hash: the algorithm in use has a star. It takes names as they are; the older commands do not.
        let offered = value("HASH").unwrap_or_default().replace('*', "");
        let hash = |name: &str| offered.split(';').any(|of| of.eq_ignore_ascii_case(name));
        let digests = [("sha512", "SHA-512"), ("sha256", "SHA-256"), ("sha1", "SHA-1"), ("md5", "MD5")]
            .into_iter()
            .filter_map(|(algorithm, name)| {
                let older = format!("X{}", algorithm.to_uppercase());
                let by = if hash(name) {
                    DigestBy::Hash(name.to_owned())
                } else if has(&older) {
                    DigestBy::Command(older)
                } else {
                    return None;
                };
                Some((algorithm.to_owned(), by))
            })
            .collect();
        let lines = greeting.lines().filter_map(|line| line.get(4..));
        let line = lines.map(|line| line.trim_matches(['-', ' '])).find(|line| !line.is_empty());
        Self {
            mlst: has("MLST") || has("MLSD"),
            mfmt: has("MFMT"),
            mdtm: has("MDTM"),
            utf8: has("UTF8"),
            avbl: has("AVBL"),
            epsv: has("EPSV"),
            digests,
            greeting: line.unwrap_or_default().chars().filter(|c| !c.is_control()).take(100).collect(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DigestBy {
    /// The command HASH, after its option was set to this name.
    Hash(String),
    /// A command of its own.
    Command(String),
}

pub struct Session {
    ftp: ImplFtpStream<Secured>,
    pub sockets: Sockets,
    pub features: Arc<Features>,
    /// Where the target's folder is, as text for commands.
    pub root: String,
    /// Whether names are absolute, so that the current directory may change.
    pub moves: bool,
    peer: IpAddr,
    /// The call that is under way: data connections end with it.
    call: Arc<Mutex<Option<Call>>>,
    seen: Seen,
    used: Instant,
    broken: bool,
}

impl Session {
    pub fn connect(shared: &Shared, call: &Call) -> Result<Self> {
        let config = &shared.config;
        let addresses = dial::addresses(call, &config.host, config.port).map_err(|e| {
            call.proceed().err().unwrap_or_else(|| {
                Error::new(ErrorKind::Unreachable, format!("the server '{}' is not known", config.host))
                    .with_source(e.to_string())
                    .with_context("hint", "check its name, and that this machine can resolve names")
            })
        })?;
        let server = config.server();
        let mut last =
            Error::new(ErrorKind::Unreachable, format!("the server '{}' has no address", config.host));
        let mut ways = addresses.into_iter().peekable();
        while let Some(&address) = ways.peek() {
            let socket = match dial::connect(call, address, config.timeout) {
                Ok(socket) => socket,
                Err(error) => {
                    call.proceed()?;
                    last = failed("connect to", &server, &error.into());
                    ways.next();
                    continue;
                }
            };
            let sockets = Sockets::default();
            sockets.control(socket.try_clone().ok());
            let seen = Seen::default();
            let opened = watched(call, &sockets, None, || {
                Self::greet(shared, address, socket, sockets.clone(), seen.clone(), call)
            });
            if opened.is_err() && seen.wants_newer() && !shared.newer_tls.swap(true, Ordering::Relaxed) {
                continue;
            }
            return opened.map_err(|e| call.proceed().err().unwrap_or(e));
        }
        Err(last)
    }

    fn greet(
        shared: &Shared,
        address: SocketAddr,
        socket: std::net::TcpStream,
        sockets: Sockets,
        seen: Seen,
        call: &Call,
    ) -> Result<Self> {
        let config = &shared.config;
        let server = config.server();
        let slot: Arc<Mutex<Option<Call>>> = Arc::new(Mutex::new(Some(call.clone())));
        let at = |act: &str, error: FtpError| {
            let fault = seen.failure().map_or_else(|| error.into(), Fault::Socket);
            failed(act, &server, &fault)
        };
        let connector = || {
            let newer = shared.newer_tls.load(Ordering::Relaxed);
            Connector::new(config, shared.trust.clone(), newer, seen.clone())
        };
        let ftp = match config.tls {
            Tls::Implicit => {
                // The library connects by itself; that the server is there has just been seen.
                drop(socket);
                let ftp = ImplFtpStream::connect_secure_implicit(address, connector()?, &config.host)
                    .map_err(|e| at("connect by TLS to", e))?;
                sockets.control(ftp.get_ref().try_clone().ok());
                ftp
            }
            _ => ImplFtpStream::connect_with_stream(socket).map_err(|e| at("talk to", e))?,
        };
        let (timeout, data, current) = (config.timeout, sockets.clone(), slot.clone());
        let mut ftp = ftp.passive_stream_builder(move |address| {
            let call = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let call = call.unwrap_or_else(Call::unwatched);
            let stream = dial::connect(&call, address, timeout).map_err(FtpError::ConnectionError)?;
            data.data(stream.try_clone().ok());
            Ok(stream)
        });
        ftp.set_passive_nat_workaround(config.nat_workaround);
        ftp.set_encoding(Bytes);
        if config.tls == Tls::Explicit {
            ftp = ftp.into_secure(connector()?, &config.host).map_err(|e| match &e {
                FtpError::UnexpectedResponse(response) if matches!(Reply::new(response).code, 500..=504 | 530..=534) => {
                    Error::new(ErrorKind::Unsupported, format!("{server} does not offer TLS"))
                        .with_source(Reply::new(response).words())
                        .with_context("hint", "turn it on there; ftp: goes without, and shows the password to whoever listens")
                }
                _ => at("secure the connection to", e),
            })?;
        }
        // RFC 959 5.4: with no password, the answer to the user is the last.
        ftp.login(text(config.user.as_bytes()), text(config.password.as_bytes())).map_err(|e| match &e {
            FtpError::UnexpectedResponse(response) => refused_login(config, &Reply::new(response)),
            _ => at("log in at", e),
        })?;
        ftp.transfer_type(FileType::Binary).map_err(|e| at("agree on binary files with", e))?;
        let greeting = ftp.get_welcome_msg().unwrap_or_default().to_owned();
        // Asked as any command: the library takes only lists that begin each line with a space.
        let features = match ftp.custom_command("FEAT", &[]) {
            Ok(reply) | Err(FtpError::UnexpectedResponse(reply)) => {
                Features::new(&Reply::new(&reply), &greeting)
            }
            Err(error) => return Err(at("ask the features of", error)),
        };
        let mut session = Self {
            peer: address.ip(),
            ftp,
            sockets,
            features: Arc::new(features),
            root: String::new(),
            moves: true,
            call: slot,
            seen: seen.clone(),
            used: Instant::now(),
            broken: false,
        };
        session.settle(shared).map_err(|fault| failed("begin a session at", &server, &fault))?;
        Ok(session)
    }

    /// Names in UTF-8, the facts that are wanted, and where the folder is.
    fn settle(&mut self, shared: &Shared) -> Result<(), Fault> {
        if shared.config.tls == Tls::Implicit {
            // RFC 4217 9: data connections are not protected unasked. The library asks with explicit TLS only.
            self.done("PBSZ 0")?;
            self.done("PROT P")?;
        }
        if self.features.utf8 {
            // Servers that always do so may refuse.
            self.command("OPTS UTF8 ON")?;
        }
        if self.features.mlst {
            self.command("OPTS MLST type;size;modify;unique;")?;
        }
        let config = &shared.config;
        let folder: Vec<String> = config.folder.iter().map(|part| text(part)).collect();
        let folder = folder.join("/");
        let base = if config.absolute { Some("/".to_owned()) } else { self.home()? };
        self.moves = base.is_some();
        let base = base.unwrap_or_default();
        self.root = match (base.trim_end_matches('/'), folder.is_empty()) {
            ("", true) if base.is_empty() => String::new(),
            ("", true) => "/".to_owned(),
            ("", false) if base.is_empty() => folder,
            (base, true) => base.to_owned(),
            (base, false) => format!("{base}/{folder}"),
        };
        Ok(())
    }

    /// Where the login begins: `257 "…"`, quotes within doubled. `None`: the server does not say it in a way we know.
    fn home(&mut self) -> Result<Option<String>, Fault> {
        let reply = self.command("PWD")?;
        if reply.code != 257 {
            return Ok(None);
        }
        let line = text(reply.rest());
        let Some(inner) = line.strip_prefix('"') else { return Ok(None) };
        let mut home = String::new();
        let mut rest = inner.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '"' if rest.peek() == Some(&'"') => {
                    rest.next();
                    home.push('"');
                }
                '"' => return Ok(Some(home).filter(|home| home.starts_with('/'))),
                c => home.push(c),
            }
        }
        Ok(None)
    }

    /// The call this session works for from now on.
    pub fn works_for(&mut self, call: Option<&Call>) {
        *self.call.lock().unwrap_or_else(PoisonError::into_inner) = call.cloned();
        self.used = Instant::now();
    }

    pub fn idle(&self) -> Duration {
        self.used.elapsed()
    }

    pub fn usable(&self) -> bool {
        !self.broken
    }

    pub fn spoil(&mut self) {
        self.broken = true;
        self.sockets.shut();
    }

    /// Whether TLS 1.3 is spoken: its tickets may have run out.
    pub fn newest_tls(&self) -> bool {
        self.seen.newest()
    }

    /// Whether they have: a new session has new ones.
    pub fn worn(&self) -> bool {
        self.seen.worn()
    }

    fn noted<T>(&mut self, result: FtpResult<T>) -> Result<T, Fault> {
        result.map_err(|error| {
            let fault = match (error, self.seen.failure()) {
                (FtpError::SecureError(_), Some(failure)) => Fault::Socket(failure),
                (error, _) => error.into(),
            };
            self.broken |= !fault.keeps();
            fault
        })
    }

    /// Sends a command and gives whatever the server replies. Errors: only for a connection that is of no more use.
    pub fn command(&mut self, command: &str) -> Result<Reply, Fault> {
        let reply = match self.ftp.custom_command(command, &[]) {
            Ok(response) | Err(FtpError::UnexpectedResponse(response)) => Reply::new(&response),
            Err(error) => return self.noted(Err(error)),
        };
        if matches!(reply.code, 0 | 421) {
            self.broken = true;
            return Err(Fault::Said(reply));
        }
        Ok(reply)
    }

    /// A command that must be answered with 2xx.
    pub fn done(&mut self, command: &str) -> Result<Reply, Fault> {
        let reply = self.command(command)?;
        if reply.good() { Ok(reply) } else { Err(Fault::Said(reply)) }
    }

    /// Opens a data connection for `command`. Extended passive mode first, the classic one where that fails.
    pub fn transfer(&mut self, shared: &Shared, command: &str, offset: u64) -> Result<Transfer, Fault> {
        loop {
            let extended = match shared.config.passive {
                Passive::Extended => true,
                Passive::Classic => false,
                Passive::Auto => {
                    self.peer.is_ipv6() || self.features.epsv && !shared.classic.load(Ordering::Relaxed)
                }
            };
            self.ftp.set_mode(if extended { Mode::ExtendedPassive } else { Mode::Passive });
            let offset =
                usize::try_from(offset).map_err(|_| Fault::Nonsense("the offset is too large".into()))?;
            self.ftp.resume_transfer(offset).map_err(Fault::from)?;
            let opened = self.ftp.custom_data_command(command, &OPENS);
            let fault = match opened {
                Ok((_, transfer)) => return Ok(transfer),
                Err(error) => {
                    let fault = self.noted(Err::<(), _>(error)).err();
                    fault.unwrap_or_else(|| Fault::Nonsense(String::new()))
                }
            };
            self.sockets.data(None);
            let passive_failed = matches!(fault.code(), Some(500..=502 | 522))
                || matches!(&fault, Fault::Socket(error) if is_about_connecting(error));
            let may = shared.config.passive == Passive::Auto && extended && self.peer.is_ipv4();
            if !(passive_failed && may) {
                return Err(fault);
            }
            // What a firewall did to one mode it may not do to the other. The control connection is as it was.
            self.broken = false;
            shared.classic.store(true, Ordering::Relaxed);
        }
    }

    /// Ends a transfer: closes the data connection and reads what the server says of it.
    pub fn finish(&mut self, transfer: Transfer) -> Result<(), Fault> {
        if let DataStream::Tcp(socket) = transfer.get_ref() {
            // The handle that the watcher has would keep the connection open. TLS says farewell first, and then does the same.
            let _ = socket.shutdown(Shutdown::Write);
        }
        let result = transfer.finish();
        self.sockets.data(None);
        self.noted(result)
    }

    /// Whether the server has said something, or gone: during an upload that is its end.
    pub fn spoken(&self, timeout: Duration) -> bool {
        let socket = self.ftp.get_ref();
        let short = socket.set_read_timeout(Some(Duration::from_millis(1)));
        let heard = short.is_ok() && socket.peek(&mut [0]).is_ok();
        let _ = socket.set_read_timeout(Some(timeout));
        heard
    }

    /// Ends a transfer that went wrong on this side, and the session with it: nothing is waited for.
    pub fn abandon(&mut self, transfer: Transfer) {
        self.spoil();
        self.sockets.data(None);
        drop(transfer);
    }

    /// Ends a download before its end.
    pub fn break_off(&mut self, transfer: Transfer) {
        // Closed for good, so that the server's writes fail instead of waiting for us.
        self.sockets.data(None);
        let _ = self.finish(transfer);
        self.in_step();
    }

    /// Ends a download of which all that was wanted has come: with the file, or before its end.
    pub fn end_download(&mut self, mut transfer: Transfer) {
        if !matches!(transfer.read(&mut [0]), Ok(0)) {
            self.break_off(transfer);
        } else if self.finish(transfer).is_err() {
            self.in_step();
        }
    }

    /// Some servers reply twice to what was broken off.
    fn in_step(&mut self) {
        if !self.broken && !self.command("NOOP").is_ok_and(|reply| reply.code == 200) {
            self.spoil();
        }
    }

    /// More patience for what keeps the server's disk busy.
    pub fn patience(&self, time: Duration) {
        let _ = self.ftp.get_ref().set_read_timeout(Some(time));
    }

    pub fn quit(mut self) {
        if self.usable() {
            self.patience(Duration::from_millis(500));
            let _ = self.ftp.quit();
        }
        self.sockets.shut();
    }
}

fn is_about_connecting(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionRefused | K::TimedOut | K::HostUnreachable | K::NetworkUnreachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(reply: &str, greeting: &str) -> Features {
        let code = reply[..3].parse().unwrap();
        Features::new(&Reply { code, bytes: reply.as_bytes().to_vec() }, greeting)
    }

    #[test]
    fn features_are_read_however_they_are_set_out() {
        let pure = features(
            "211-Extensions supported:\r\n UTF8\r\n MDTM\r\n MFMT\r\n MLST type*;size*;\r\n EPSV\r\n211 End.\r\n",
            "220---------- Welcome to Pure-FTPd [TLS] ----------\r\n220-You are user 1\r\n220 Bye\r\n",
        );
        assert!(pure.utf8 && pure.mdtm && pure.mfmt && pure.mlst && pure.epsv && !pure.avbl);
        assert_eq!(pure.greeting, "Welcome to Pure-FTPd [TLS]");
        // An empty line before the last, and line feeds alone (goftp).
        let go =
            features("211-Extensions supported:\n UTF8\n MLST Type*;\n\r\n211 End\r\n", "220 Welcome\r\n");
        assert!(go.utf8 && go.mlst && !go.epsv);
        // The code before each line.
        let coded = features("211-Features:\r\n211-utf8\r\n211-HASH SHA-1;SHA-256*\r\n211 End\r\n", "");
        assert!(coded.utf8);
        let hash = |name: &str| DigestBy::Hash(name.to_owned());
        assert_eq!(
            coded.digests,
            [("sha256".to_owned(), hash("SHA-256")), ("sha1".to_owned(), hash("SHA-1"))]
        );
        let none = features("502 FEAT is not known\r\n", "220 x");
        assert!(!none.utf8 && none.digests.is_empty());
    }
}
