//! Making a connection: name, TCP, handshake, host key, login, SFTP.
//!
//! It happens in a thread of its own, because name resolution, a key's passphrase and an SSH agent block: a caller whose
//! time is up leaves at once, and the thread ends at its next step.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use offsite_plugin_api::{Call, Error, ErrorKind, Result, Zeroizing};
use ssh2::{ErrorCode, MethodType, Session};

use super::config::{Config, Login};
use super::error::{invalid, session as session_error};
use super::hostkey;
use super::link::{Link, Watch, drive};

const KEX: &str = "curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521,\
                   diffie-hellman-group16-sha512,diffie-hellman-group18-sha512,diffie-hellman-group14-sha256,\
                   diffie-hellman-group-exchange-sha256";
/// AES-GCM has hardware help on every machine of the last ten years, on both sides.
const CIPHERS: &str = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr,aes192-ctr,\
                       aes256-ctr";
const MACS: &str = "hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,hmac-sha2-256,hmac-sha2-512";
/// Largest private key file, bytes.
const LARGEST_KEY: u64 = 64 * 1024;
/// sshd's MaxAuthTries is six.
const MOST_IDENTITIES: usize = 5;

/// A connection, the line of a host key that is new and accepted, and the ways to log in that the server named.
pub struct Made {
    pub link: Link,
    pub remember: Option<String>,
    pub offered: Option<String>,
}

/// `remembered`: lines accepted earlier, in the form of known_hosts. `offered`: ways to log in that the server named before.
pub fn connect(
    config: &Arc<Config>,
    remembered: Option<String>,
    offered: Option<String>,
    call: &Call,
) -> Result<Made> {
    call.proceed()?;
    let gone = Arc::new(AtomicBool::new(false));
    let patience = Patience { gone: gone.clone(), until: Instant::now() + config.connect_timeout };
    let (send, receive) = mpsc::sync_channel(1);
    let config = config.clone();
    let (server, limit, begun) = (config.server(), config.connect_timeout, Instant::now());
    std::thread::Builder::new()
        .name("sftp-connect".to_owned())
        .spawn(move || {
            // Nobody may be waiting any more.
            let _ = send.send(make(&config, remembered.as_deref(), offered, &patience));
        })
        .map_err(|e| Error::io("cannot start a thread", &e))?;
    loop {
        match receive.recv_timeout(Duration::from_millis(50)) {
            Ok(made) => return made,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                call.proceed().inspect_err(|_| gone.store(true, Ordering::Relaxed))?;
                // The thread gives up by itself; this is for what blocks in the system.
                if begun.elapsed() > limit + Duration::from_secs(1) {
                    gone.store(true, Ordering::Relaxed);
                    return Err(Error::new(
                        ErrorKind::TimedOut,
                        format!("{server} cannot be reached in time"),
                    )
                    .with_context("hint", "check this machine's name resolution and the SSH agent"));
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(Error::new(
                    ErrorKind::Interrupted,
                    format!("the answer of {server} could not be understood"),
                ));
            }
        }
    }
}

/// Until the caller leaves or the time to connect is over.
struct Patience {
    gone: Arc<AtomicBool>,
    until: Instant,
}

impl Patience {
    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

impl Watch for Patience {
    fn proceed(&self) -> Result<()> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
        }
        if self.left().is_zero() {
            return Err(Error::new(ErrorKind::TimedOut, "the server did not answer in time")
                .with_context("hint", "check host and port; raise connect_timeout for a slow server"));
        }
        Ok(())
    }
}

fn make(
    config: &Config,
    remembered: Option<&str>,
    offered: Option<String>,
    patience: &Patience,
) -> Result<Made> {
    let server = config.server();
    let on_server = |e: Error| e.with_context("server", server.clone());
    let tcp = reach(config, patience)?;
    let broken = |e: ssh2::Error| session_error("cannot prepare the connection", &e);
    let mut session = Session::new().map_err(broken)?;
    session.set_blocking(false);
    let mut known = hostkey::known(&session, config)?;
    for (number, line) in remembered.unwrap_or_default().lines().enumerate() {
        if let Some((key, _)) = hostkey::parse(line) {
            known.push(hostkey::Known { place: format!("remembered, {}", number + 1), ..key });
        }
    }
    for (method, list) in [
        (MethodType::Kex, KEX.to_owned()),
        (MethodType::HostKey, hostkey::preference(&known)),
        (MethodType::CryptCs, CIPHERS.to_owned()),
        (MethodType::CryptSc, CIPHERS.to_owned()),
        (MethodType::MacCs, MACS.to_owned()),
        (MethodType::MacSc, MACS.to_owned()),
    ] {
        session.method_pref(method, &list).map_err(broken)?;
    }
    session.set_tcp_stream(tcp.try_clone().map_err(|e| Error::io("cannot use the socket", &e))?);
    // The handshake borrows the session for writing.
    let mut greeting = session.clone();
    drive(&session, &tcp, patience, "the SSH handshake failed", || greeting.handshake())
        .map_err(on_server)?;
    let shown = hostkey::shown(&session).map_err(on_server)?;
    let remember = hostkey::judge(config, &known, &shown)?.then(|| shown.line(config));
    let offered = log_in(&session, &tcp, config, offered, patience).map_err(on_server)?;
    let link = Link::start(session, tcp, patience).map_err(on_server)?;
    Ok(Made { link, remember, offered })
}

/// Resolves the name and tries its addresses in order.
fn reach(config: &Config, patience: &Patience) -> Result<TcpStream> {
    let server = config.server();
    let addresses: Vec<_> = (config.host.as_str(), config.port)
        .to_socket_addrs()
        .map_err(|e| {
            Error::new(ErrorKind::Unreachable, format!("the host '{}' is not known", config.host))
                .with_context(
                    "hint",
                    "check the name in the URL and this machine's name resolution, or give an address",
                )
                .with_source(e.to_string())
        })?
        .collect();
    let mut last = None;
    for (number, address) in addresses.iter().enumerate() {
        patience.proceed()?;
        // What is left is shared among the addresses that are left.
        let share = patience.left() / (addresses.len() - number) as u32;
        match TcpStream::connect_timeout(address, share.max(Duration::from_millis(100))) {
            Ok(tcp) => {
                prepare(&tcp);
                return Ok(tcp);
            }
            Err(e) => last = Some((address, e)),
        }
    }
    let Some((address, e)) = last else {
        return Err(Error::new(ErrorKind::Unreachable, format!("the host '{}' has no address", config.host)));
    };
    let (message, hint) = match e.kind() {
        std::io::ErrorKind::ConnectionRefused => (
            format!("{server} refuses the connection"),
            "check the port, and that the SSH server runs and a firewall lets this machine in",
        ),
        std::io::ErrorKind::TimedOut => (
            format!("{server} does not answer"),
            "check host and port, and that the server is switched on and a firewall lets this machine in",
        ),
        _ => (format!("{server} cannot be reached"), "check host, port and network"),
    };
    let error =
        Error::io(message, &e).with_context("address", address.to_string()).with_context("hint", hint);
    Err(match e.kind() {
        std::io::ErrorKind::TimedOut => error,
        // Whatever the system calls it: the server was not reached.
        _ if *error.kind() == ErrorKind::Other => {
            Error::new(ErrorKind::Unreachable, error.message().to_owned()).with_source(e.to_string())
        }
        _ => error,
    })
}

/// Best effort: a dead peer is noticed by the system, small packets are not held back.
fn prepare(tcp: &TcpStream) {
    let socket = socket2::SockRef::from(tcp);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(20))
        .with_interval(Duration::from_secs(10))
        .with_retries(4);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(Duration::from_secs(60)));
    let _ = tcp.set_nodelay(true);
}

/// Gives the ways that the server offers; `None`: it lets everybody in.
fn log_in(
    session: &Session,
    tcp: &TcpStream,
    config: &Config,
    offered: Option<String>,
    patience: &Patience,
) -> Result<Option<String>> {
    let user = &config.user;
    let offered = match offered {
        Some(known) => known,
        None => drive(session, tcp, patience, "cannot ask how to log in", || {
            session.auth_methods(user).map(str::to_owned)
        })?,
    };
    if session.authenticated() {
        return Ok(None);
    }
    let offers = |method: &str| offered.split(',').any(|m| m == method);
    let mut refused = Vec::new();
    let mut last = None;
    for login in &config.logins {
        let result = match login {
            Login::Password(password) if offers("password") => {
                drive(session, tcp, patience, "the server refuses the password", || {
                    session.userauth_password(user, password)
                })
            }
            Login::Password(password) if offers("keyboard-interactive") => {
                let mut answers = Answers { password, rounds: 0 };
                drive(session, tcp, patience, "the server refuses the password", || {
                    session.userauth_keyboard_interactive(user, &mut answers)
                })
            }
            Login::KeyFile(file, passphrase) if offers("publickey") => {
                let text = read_key(file)?;
                with_key(session, tcp, patience, user, &text, passphrase.as_ref())
            }
            Login::KeyText(text, passphrase) if offers("publickey") => {
                with_key(session, tcp, patience, user, text, passphrase.as_ref())
            }
            Login::Agent if offers("publickey") => with_agent(session, tcp, patience, user),
            _ => {
                refused.push(format!("{login:?} (not offered by the server)"));
                continue;
            }
        };
        match result {
            Ok(()) if session.authenticated() => return Ok(Some(offered)),
            Ok(()) => refused.push(format!("{login:?} (the server wants more than that)")),
            Err(e) if *e.kind() == ErrorKind::Unauthenticated => {
                refused.push(format!("{login:?}"));
                last = Some(e);
            }
            Err(e) => return Err(e),
        }
    }
    let hint = match config.logins.first() {
        Some(Login::Password(_)) => "check user and password; a server that wants a key needs key_file",
        Some(Login::Agent) => {
            "no password and no key is given, and the agent has none that the server takes: give key_file or a password"
        }
        _ => "check the user, and that the key's public half is in the account's ~/.ssh/authorized_keys",
    };
    let error = Error::new(ErrorKind::Unauthenticated, format!("the server does not let '{user}' in"))
        .with_context("tried", refused.join(", "))
        .with_context("offered by the server", super::wire::plain(offered.as_bytes()))
        .with_context("hint", hint);
    Err(match last.as_ref().and_then(Error::source_text) {
        Some(text) => error.with_source(text),
        None => error,
    })
}

fn read_key(file: &Path) -> Result<Zeroizing<String>> {
    use std::io::Read;
    let shown = file.display();
    let mut text = Zeroizing::new(String::new());
    std::fs::File::open(file)
        .and_then(|f| f.take(LARGEST_KEY).read_to_string(&mut text))
        .map_err(|e| invalid(format!("cannot read the private key '{shown}'")).with_source(e.to_string()))?;
    if text.starts_with("ssh-") || text.starts_with("ecdsa-") {
        return Err(invalid(format!(
            "'{shown}' is the public half; key_file must name the private one, without .pub"
        )));
    }
    Ok(text)
}

fn with_key(
    session: &Session,
    tcp: &TcpStream,
    patience: &Patience,
    user: &str,
    text: &str,
    passphrase: Option<&Zeroizing<String>>,
) -> Result<()> {
    let mut unusable = None;
    let result = drive(session, tcp, patience, "the server refuses the key", || {
        let passphrase = passphrase.map(|p| p.as_str());
        session.userauth_pubkey_memory(user, None, text, passphrase).inspect_err(|e| {
            // Met before anything is sent.
            if matches!(
                e.code(),
                ErrorCode::Session(
                    libssh2_sys::LIBSSH2_ERROR_FILE
                        | libssh2_sys::LIBSSH2_ERROR_METHOD_NONE
                        | libssh2_sys::LIBSSH2_ERROR_INVAL
                )
            ) {
                unusable = Some(super::wire::plain(e.message().as_bytes()));
            }
        })
    });
    match unusable {
        Some(words) => Err(invalid("the private key cannot be used")
            .with_context(
                "hint",
                match passphrase {
                    Some(_) => "the passphrase may be wrong, or the key is of a kind that is not supported (OpenSSH or \
                                PEM: ed25519, ECDSA, RSA)",
                    None => "it may be encrypted (give the credential passphrase), or of a kind that is not supported \
                             (OpenSSH or PEM: ed25519, ECDSA, RSA)",
                },
            )
            .with_source(words)),
        None => result,
    }
}

fn with_agent(session: &Session, tcp: &TcpStream, patience: &Patience, user: &str) -> Result<()> {
    let no_agent = |e: ssh2::Error| {
        Error::new(ErrorKind::Unauthenticated, "no SSH agent answers")
            .with_context("hint", "start one (SSH_AUTH_SOCK), or give key_file or a password")
            .with_source(super::wire::plain(e.message().as_bytes()))
    };
    let mut agent = session.agent().map_err(no_agent)?;
    agent.connect().map_err(no_agent)?;
    agent.list_identities().map_err(no_agent)?;
    let identities = agent.identities().map_err(no_agent)?;
    let mut last = Error::new(ErrorKind::Unauthenticated, "the agent holds no key");
    for identity in identities.iter().take(MOST_IDENTITIES) {
        match drive(session, tcp, patience, "the server refuses the agent's key", || {
            agent.userauth(user, identity)
        }) {
            Ok(()) => return Ok(()),
            // A key the agent itself will not use is no reason to stop.
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::Unauthenticated | ErrorKind::Other | ErrorKind::Unsupported
                ) =>
            {
                last = Error::new(ErrorKind::Unauthenticated, e.message().to_owned());
            }
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

/// Gives the password to the first question that is not echoed, once.
struct Answers<'a> {
    password: &'a str,
    rounds: u32,
}

impl ssh2::KeyboardInteractivePrompt for Answers<'_> {
    fn prompt<'p>(&mut self, _: &str, _: &str, prompts: &[ssh2::Prompt<'p>]) -> Vec<String> {
        let mut given = self.rounds > 0;
        let answers = prompts
            .iter()
            .map(|prompt| {
                if prompt.echo || given {
                    return String::new();
                }
                given = true;
                self.password.to_owned()
            })
            .collect();
        self.rounds += u32::from(!prompts.is_empty());
        answers
    }
}
