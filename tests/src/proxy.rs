//! A fault proxy in front of any TCP server: it cuts, freezes, delays, throttles and counts.
//!
//! Faults and counts belong to the proxy, not to one connection: a client with eight connections meets one network.
//! Without a delay, bytes go from socket to socket through a pipe in the kernel (splice), so that the proxy is not what
//! a bench measures. With one, a queue for each direction keeps every byte for half the round trip, whatever the
//! rate: a long line, not a slow one. The handshake of a connection is not delayed.

mod line;
mod network;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use network::Network;

/// Where bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// Passes everything until told otherwise. Dropping it cuts every connection.
pub struct Proxy {
    address: SocketAddr,
    network: Arc<Network>,
    listeners: Vec<SocketAddr>,
}

impl Proxy {
    /// On a free port of 127.0.0.1.
    pub fn start(upstream: SocketAddr) -> Self {
        Self::with_delay(upstream, Duration::ZERO)
    }

    /// On a free port of the loopback's IPv6 address, whatever the server listens on; and on `ports` there, each connected
    /// to the same number at the server.
    pub fn over_ipv6(upstream: SocketAddr, ports: impl IntoIterator<Item = u16>) -> Self {
        let here: IpAddr = Ipv6Addr::LOCALHOST.into();
        let mut proxy = Self::listen((here, 0).into(), upstream, Duration::ZERO);
        for port in ports {
            proxy.add((here, port).into(), (upstream.ip(), port).into());
        }
        proxy
    }

    /// Every byte arrives half of `round_trip` after it was sent.
    pub fn with_delay(upstream: SocketAddr, round_trip: Duration) -> Self {
        Self::listen((Ipv4Addr::LOCALHOST, 0).into(), upstream, round_trip)
    }

    /// For protocols that name ports in what they say (FTP): listens on 127.0.0.2 under the server's own port numbers,
    /// the control port and every one of `ports`, and connects each to the same number at the server.
    pub fn mirror(upstream: SocketAddr, ports: impl IntoIterator<Item = u16>, round_trip: Duration) -> Self {
        let mirror: IpAddr = Ipv4Addr::new(127, 0, 0, 2).into();
        let mut proxy = Self::listen((mirror, upstream.port()).into(), upstream, round_trip);
        for port in ports {
            proxy.add((mirror, port).into(), (upstream.ip(), port).into());
        }
        proxy
    }

    fn listen(address: SocketAddr, upstream: SocketAddr, round_trip: Duration) -> Self {
        let network = Arc::new(Network::new(round_trip / 2));
        let mut proxy = Self { address, network, listeners: Vec::new() };
        proxy.address = proxy.add(address, upstream);
        proxy
    }

    fn add(&mut self, address: SocketAddr, upstream: SocketAddr) -> SocketAddr {
        let listener =
            TcpListener::bind(address).unwrap_or_else(|e| panic!("cannot listen on {address}: {e}"));
        let address = listener.local_addr().expect("a bound socket has an address");
        let network = self.network.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if network.closed() {
                    return;
                }
                let network = network.clone();
                std::thread::spawn(move || line::connect(&network, client, upstream));
            }
        });
        self.listeners.push(address);
        address
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes passed on so far, over all connections.
    pub fn count(&self, direction: Direction) -> u64 {
        self.network.count(direction)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.network.connections()
    }

    /// Cuts every connection as soon as `total` bytes have passed in that direction, exactly. Once; later connections pass.
    pub fn cut_at(&self, direction: Direction, total: u64) {
        self.network.change(|faults| faults.cut[direction as usize] = Some(total));
    }

    /// Cuts every connection now.
    pub fn cut(&self) {
        self.network.cut();
    }

    /// Holds every byte back, in both directions, and answers nothing; connections stay open and new ones are accepted.
    /// `false` passes on what was held back.
    pub fn freeze(&self, frozen: bool) {
        self.network.change(|faults| faults.frozen = frozen);
    }

    /// Freezes by itself once `total` bytes have passed in that direction.
    pub fn freeze_at(&self, direction: Direction, total: u64) {
        self.network.change(|faults| faults.freeze[direction as usize] = Some(total));
    }

    /// Whether it is frozen now.
    pub fn frozen(&self) -> bool {
        self.network.read(|faults| faults.frozen)
    }

    /// Closes new connections at once; those that are there go on.
    pub fn refuse(&self, refusing: bool) {
        self.network.change(|faults| faults.refusing = refusing);
    }

    /// At most so many bytes a second in each direction, over all connections; `None` lifts it.
    pub fn throttle(&self, bytes_per_second: Option<u64>) {
        self.network.change(|faults| faults.rate = bytes_per_second);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.network.close();
        for address in &self.listeners {
            let _ = TcpStream::connect_timeout(address, Duration::from_secs(1));
        }
    }
}
