//! The fault proxy: what it passes, holds back, cuts and counts is exactly what a test asked for.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use offsite_tests::program::wait_until;
use offsite_tests::proxy::{Direction, Proxy};

const LIMIT: Duration = Duration::from_secs(20);

/// Answers every byte with itself, until the end.
fn echo() -> SocketAddr {
    serve(|mut stream| {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..n]).is_err() {
                return;
            }
        }
    })
}

/// Swallows everything, and says how much when a connection ends.
fn sink() -> (SocketAddr, Receiver<u64>) {
    let (send, receive) = channel();
    let address = serve(move |mut stream| {
        let mut buffer = vec![0; 1 << 18];
        let mut total = 0;
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            total += n as u64;
        }
        let _ = send.send(total);
    });
    (address, receive)
}

fn serve(each: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let each = each.clone();
            std::thread::spawn(move || each(stream));
        }
    });
    address
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends `n` bytes, or as many as go before an error.
fn pour(mut stream: &TcpStream, n: u64) -> std::io::Result<()> {
    let buffer = vec![7; 1 << 18];
    let mut left = n;
    while left > 0 {
        let some = left.min(buffer.len() as u64) as usize;
        stream.write_all(&buffer[..some])?;
        left -= some as u64;
    }
    Ok(())
}

#[test]
fn bytes_and_ends_pass_unchanged_and_are_counted_over_all_connections() {
    for delay in [Duration::ZERO, Duration::from_millis(4)] {
        let proxy = Proxy::with_delay(echo(), delay);
        for seed in 0..2_u8 {
            let mut stream = connect(&proxy);
            let sent: Vec<u8> = (0..300_000_u32).map(|n| (n / 7) as u8 ^ seed).collect();
            let mut writer = stream.try_clone().unwrap();
            let copy = sent.clone();
            let sender = std::thread::spawn(move || {
                writer.write_all(&copy).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            sender.join().unwrap();
            assert!(received == sent, "{} bytes came back", received.len());
        }
        assert_eq!((proxy.count(Direction::Up), proxy.count(Direction::Down)), (600_000, 600_000));
        assert_eq!(proxy.connections(), 2);
    }
}

#[test]
fn a_cut_is_exact_to_the_byte_and_ends_every_connection_once() {
    let (address, ended) = sink();
    let proxy = Proxy::start(address);
    proxy.cut_at(Direction::Up, 1_234_567);
    let (other, stream) = (connect(&proxy), connect(&proxy));
    wait_until("both are connected", LIMIT, || proxy.connections() == 2);
    let _ = pour(&stream, 4 << 20);
    let mut totals = [ended.recv_timeout(LIMIT).unwrap(), ended.recv_timeout(LIMIT).unwrap()];
    totals.sort_unstable();
    assert_eq!(totals, [0, 1_234_567]);
    assert_eq!(proxy.count(Direction::Up), 1_234_567);
    assert!(matches!((&other).read(&mut [0]), Ok(0) | Err(_)));
    let later = connect(&proxy);
    pour(&later, 1000).unwrap();
    drop(later);
    assert_eq!(ended.recv_timeout(LIMIT).unwrap(), 1000);
}

#[test]
fn a_frozen_line_passes_nothing_and_then_everything() {
    let proxy = Proxy::start(echo());
    let mut stream = connect(&proxy);
    proxy.freeze_at(Direction::Down, 3);
    stream.write_all(b"abcdef").unwrap();
    let mut some = [0; 3];
    stream.read_exact(&mut some).unwrap();
    wait_until("it freezes", LIMIT, || proxy.frozen());
    stream.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
    let error = stream.read(&mut some).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    let mut late = connect(&proxy);
    late.write_all(b"x").unwrap();
    assert_eq!(proxy.count(Direction::Up), 6);
    proxy.freeze(false);
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.read_exact(&mut some).unwrap();
    assert_eq!(&some, b"def");
    late.read_exact(&mut some[..1]).unwrap();
    assert_eq!(&some[..1], b"x");
}

/// 50 ms there and back for one byte; 64 MiB still go in much less than the 256 round trips of as many pieces.
#[test]
fn a_delay_makes_the_line_longer_not_slower() {
    let round_trip = Duration::from_millis(50);
    let proxy = Proxy::with_delay(echo(), round_trip);
    let mut stream = connect(&proxy);
    let mut byte = [1];
    for _ in 0..3 {
        let start = Instant::now();
        stream.write_all(&byte).unwrap();
        stream.read_exact(&mut byte).unwrap();
        assert!(start.elapsed() >= round_trip, "{:?}", start.elapsed());
    }
    let (address, ended) = sink();
    let proxy = Proxy::with_delay(address, round_trip);
    let stream = connect(&proxy);
    let start = Instant::now();
    pour(&stream, 64 << 20).unwrap();
    drop(stream);
    assert_eq!(ended.recv_timeout(LIMIT).unwrap(), 64 << 20);
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}

#[test]
fn a_throttle_holds_its_rate_over_all_connections() {
    let (address, ended) = sink();
    let proxy = Proxy::start(address);
    proxy.throttle(Some(4_000_000));
    let start = Instant::now();
    let pouring: Vec<_> = (0..2)
        .map(|_| {
            let stream = connect(&proxy);
            std::thread::spawn(move || pour(&stream, 2_000_000).unwrap())
        })
        .collect();
    pouring.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(ended.recv_timeout(LIMIT).unwrap() + ended.recv_timeout(LIMIT).unwrap(), 4_000_000);
    let took = start.elapsed().as_secs_f64();
    assert!((0.9..2.0).contains(&took), "{took} s for one second's bytes");
}

/// FTP: the server says a port, and the client finds the proxy there.
#[test]
fn mirrored_ports_are_one_network() {
    let (control, data) = (echo(), echo());
    let proxy = Proxy::mirror(control, [data.port()], Duration::ZERO);
    assert_eq!(proxy.address(), (Ipv4Addr::new(127, 0, 0, 2), control.port()).into());
    let mut passive = TcpStream::connect((Ipv4Addr::new(127, 0, 0, 2), data.port())).unwrap();
    passive.set_read_timeout(Some(LIMIT)).unwrap();
    passive.write_all(b"abc").unwrap();
    passive.read_exact(&mut [0; 3]).unwrap();
    assert_eq!(proxy.count(Direction::Up), 3);
    proxy.refuse(true);
    assert!(matches!(connect(&proxy).read(&mut [0]), Ok(0) | Err(_)));
    proxy.cut();
    assert!(matches!(passive.read(&mut [0]), Ok(0) | Err(_)));
}
