//! What the two FTP servers share: how a test wants one, its ports, and its URLs.
//!
//! A server says in its answers on which port it waits for the data of a transfer. Each has a range of such passive ports
//! for itself, so that a proxy can stand before all of them ([`Ports::proxy`]).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::port::Port;
use crate::proxy::Proxy;

/// More than all sessions of a test listen on at once: a server chooses at random, and gives up after some tries.
const PASSIVE: u16 = 40;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    #[default]
    None,
    /// AUTH TLS, required for logins and data.
    Explicit,
    /// From the first byte.
    Implicit,
}

/// What a test may want to be different.
#[derive(Clone, Debug)]
pub struct Settings {
    pub address: IpAddr,
    /// Data connections must continue the TLS session of their control connection, as both servers have it by default.
    pub tls: Tls,
    /// More lines of the server's configuration; they count over the harness's own.
    pub lines: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { address: Ipv4Addr::LOCALHOST.into(), tls: Tls::None, lines: Vec::new() }
    }
}

impl Settings {
    pub fn tls(tls: Tls) -> Self {
        Self { tls, ..Self::default() }
    }

    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }
}

/// A control port and the passive ports behind it.
#[derive(Debug)]
pub struct Ports(Vec<Port>);

impl Ports {
    #[track_caller]
    pub(super) fn take() -> Self {
        Self(Port::take_some(1 + PASSIVE))
    }

    pub fn control(&self) -> u16 {
        self.0[0].number()
    }

    /// The first and the last, both included.
    pub fn passive(&self) -> (u16, u16) {
        (self.0[1].number(), self.0[self.0.len() - 1].number())
    }

    /// A proxy on 127.0.0.2 before control and data connections of a server on `address`. Clients must take the data port
    /// from the answer, but not the address (EPSV names none; with PASV a server names its own).
    pub fn proxy(&self, address: IpAddr, round_trip: Duration) -> Proxy {
        let (first, last) = self.passive();
        Proxy::mirror(SocketAddr::new(address, self.control()), first..=last, round_trip)
    }
}

/// `ftp://user@address/`, `ftps:` with either TLS; the login starts in the folder that holds the data.
pub(super) fn url(tls: Tls, user: &str, address: SocketAddr) -> String {
    let scheme = if tls == Tls::None { "ftp" } else { "ftps" };
    format!("{scheme}://{user}@{address}/")
}

/// Whether a server there greets; one that waits for a TLS handshake first is only connected to.
pub(super) fn greets(address: SocketAddr, tls: Tls) -> bool {
    use std::io::Read;
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    if tls == Tls::Implicit {
        return true;
    }
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out can be set");
    let mut code = [0; 3];
    stream.read_exact(&mut code).is_ok() && &code == b"220"
}
