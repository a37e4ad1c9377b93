//! The harness's proxy as a program, for benches and for trying things by hand: `fault-proxy SERVER:PORT [ROUND_TRIP_MS [FIRST LAST]]`.
//!
//! With FIRST and LAST, the passive ports of an FTP server, it listens on 127.0.0.2 under the server's own port numbers.
//! Prints the address it listens on. Each line on standard input is a command: `count` (prints bytes up and down), `cut`,
//! `freeze`, `thaw`, `rate BYTES_PER_SECOND` (0 lifts it). It ends with its standard input.
#![allow(clippy::print_stdout)] // A program of the tests.

use std::io::BufRead;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use offsite_tests::proxy::{Direction, Proxy};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let upstream = args.next().and_then(|text| text.parse::<SocketAddr>().ok());
    let delay = args.next().map_or(Some(0), |text| text.parse().ok());
    let passive: Vec<Option<u16>> = args.map(|text| text.parse().ok()).collect();
    let (Some(upstream), Some(delay), [] | [Some(_), Some(_)]) = (upstream, delay, &passive[..]) else {
        println!("usage: fault-proxy SERVER:PORT [ROUND_TRIP_MS [FIRST LAST]]");
        return ExitCode::from(2);
    };
    let delay = Duration::from_millis(delay);
    let proxy = match passive[..] {
        [Some(first), Some(last)] => Proxy::mirror(upstream, first..=last, delay),
        _ => Proxy::with_delay(upstream, delay),
    };
    println!("{}", proxy.address());
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["count"] => println!("{} {}", proxy.count(Direction::Up), proxy.count(Direction::Down)),
            ["cut"] => proxy.cut(),
            ["freeze"] => proxy.freeze(true),
            ["thaw"] => proxy.freeze(false),
            ["rate", rate] => proxy.throttle(rate.parse().ok().filter(|rate| *rate > 0)),
            _ => println!("unknown: {line}"),
        }
    }
    ExitCode::SUCCESS
}
