//! The harness's proxy as a program, for benches and for trying things by hand: `fault-proxy SERVER:PORT [ROUND_TRIP_MS]`.
//!
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
    let (Some(upstream), Some(delay)) = (upstream, delay) else {
        println!("usage: fault-proxy SERVER:PORT [ROUND_TRIP_MS]");
        return ExitCode::from(2);
    };
    let proxy = Proxy::with_delay(upstream, Duration::from_millis(delay));
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
