//! One connection: a thread for each direction, and one more for each where bytes are delayed.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, pipe, splice};

use super::Direction;
use super::network::{Gate, Network};

/// Bytes that move at once.
const PIECE: usize = 1 << 20;
/// Bytes a delayed direction may hold: more than a fast line holds in a long round trip, and a bound.
const HELD: usize = 128 << 20;

/// Serves one client until either side ends.
pub fn connect(network: &Arc<Network>, client: TcpStream, upstream: SocketAddr) {
    if network.read(|faults| faults.refusing) || !network.thawed() {
        return;
    }
    let Ok(server) = TcpStream::connect_timeout(&upstream, Duration::from_secs(5)) else { return };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let Ok(number) = network.opened(&client, &server) else { return };
    std::thread::scope(|scope| {
        let up = scope.spawn(|| pass(network, Direction::Up, &client, &server));
        let down = pass(network, Direction::Down, &server, &client);
        let up = up.join().expect("passing does not panic");
        if up.is_err() || down.is_err() {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    });
    network.forget(number);
}

/// Passes one direction on to its end. An error ends both directions.
fn pass(network: &Network, direction: Direction, from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let result = if network.delay.is_zero() {
        spliced(network, direction, from, to)
    } else {
        delayed(network, direction, from, to)
    };
    match result {
        // An end in one direction (a half-closed connection) is passed on, once the line lets it.
        Ok(()) if network.thawed() => to.shutdown(Shutdown::Write),
        Ok(()) => Err(io::ErrorKind::ConnectionAborted.into()),
        Err(error) => {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
            Err(error)
        }
    }
}

fn cut(network: &Network) -> io::Error {
    network.cut();
    io::ErrorKind::ConnectionAborted.into()
}

fn spliced(network: &Network, direction: Direction, from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let (output, input) = pipe()?;
    // More than an ordinary user may have is refused; the default will do then.
    let _ = fcntl_setpipe_size(&input, PIECE);
    loop {
        let mut held = splice(from, None, &input, None, PIECE, SpliceFlags::MOVE)?;
        if held == 0 {
            return Ok(());
        }
        while held > 0 {
            let (allowed, last) = match network.gate(direction, held) {
                Gate::Pass(n) => (n, false),
                Gate::Cut(n) => (n, true),
                Gate::Closed => return Err(io::ErrorKind::ConnectionAborted.into()),
            };
            let mut left = allowed;
            while left > 0 {
                left -= splice(&output, None, to, None, left, SpliceFlags::MOVE)?;
            }
            held -= allowed;
            if last {
                return Err(cut(network));
            }
        }
    }
}

/// What a delayed direction holds.
#[derive(Default)]
struct Held {
    bytes: Mutex<usize>,
    fewer: Condvar,
}

impl Held {
    /// Waits for room, then counts `n` more.
    fn add(&self, n: usize) {
        let bytes = self.bytes.lock().expect("no thread panics with the lock");
        let mut bytes =
            self.fewer.wait_while(bytes, |bytes| *bytes >= HELD).expect("no thread panics with the lock");
        *bytes = bytes.saturating_add(n);
    }

    fn remove(&self, n: usize) {
        let mut bytes = self.bytes.lock().expect("no thread panics with the lock");
        *bytes = bytes.saturating_sub(n);
        self.fewer.notify_all();
    }
}

fn delayed(network: &Network, direction: Direction, from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let (send, receive) = mpsc::channel();
    let held = Held::default();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(network.delay, from, send, &held));
        let written = write(network, direction, &receive, to, &held);
        if written.is_err() {
            let _ = from.shutdown(Shutdown::Both);
            held.remove(usize::MAX);
        }
        drop(receive);
        reader.join().expect("reading does not panic");
        written
    })
}

/// Reads until the end, an error, or a writer that has gone; each piece with the instant at which it arrives.
fn read(delay: Duration, mut from: &TcpStream, send: Sender<(Instant, Vec<u8>)>, held: &Held) {
    let mut buffer = vec![0; PIECE];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        held.add(n);
        if send.send((Instant::now() + delay, buffer[..n].to_vec())).is_err() {
            return;
        }
    }
    // The end takes as long as the bytes.
    let _ = send.send((Instant::now() + delay, Vec::new()));
}

fn write(
    network: &Network,
    direction: Direction,
    receive: &Receiver<(Instant, Vec<u8>)>,
    mut to: &TcpStream,
    held: &Held,
) -> io::Result<()> {
    for (due, piece) in receive {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let (allowed, last) = match network.gate(direction, rest.len()) {
                Gate::Pass(n) => (n, false),
                Gate::Cut(n) => (n, true),
                Gate::Closed => return Err(io::ErrorKind::ConnectionAborted.into()),
            };
            to.write_all(&rest[..allowed])?;
            rest = &rest[allowed..];
            if last {
                return Err(cut(network));
            }
        }
        held.remove(piece.len());
    }
    Ok(())
}
