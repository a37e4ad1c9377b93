//! What every network backend owes when the line or the server fails, counted and timed at a proxy before a real server.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use offsite_tests::backends::{Cloud, Ftp, Ftps, FtpsMlsd, Network, Reach, S3, Sftp, Smb, WebDav};
use offsite_tests::law::Laws;
use offsite_tests::program::{Running, kill_all, wait_until};
use offsite_tests::proxy::Direction;
use offsite_tests::sandbox::{Sandbox, debris, files, large_file, random_file, tree};
use rustix::process::Signal;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(90);

/// One test per backend and scenario, named `backend::scenario`.
macro_rules! on {
    ($module:ident: $backend:ty; $scenarios:tt) => { on!(@module $module $backend; $scenarios); };
    ($module:ident: $backend:ty, $($more:ident: $backends:ty),+; $scenarios:tt) => {
        on!(@module $module $backend; $scenarios);
        on!($($more: $backends),+; $scenarios);
    };
    (@module $module:ident $backend:ty; [$($scenario:ident),* $(,)?]) => {
        mod $module {
            $(#[test]
            fn $scenario() {
                super::$scenario::<$backend>();
            })*
        }
    };
}

on!(sftp: super::Sftp, s3: super::S3, webdav: super::WebDav, smb: super::Smb,
    ftp: super::Ftp, ftps: super::Ftps, ftps_mlsd: super::FtpsMlsd; [
    killed_at_sixty_percent_sends_the_rest_and_at_most_what_was_at_stake,
    interrupted_on_a_frozen_line_ends_within_two_seconds,
    a_cut_line_is_taken_up_again_within_the_run,
    a_line_that_stalls_for_seconds_costs_no_retry,
    a_server_that_restarts_costs_a_retry,
    a_server_that_is_gone_is_told_in_words,
    an_ipv6_address_is_as_good_as_any,
    no_secret_is_ever_written_down,
]);

// Those whose checkpoints are not durable.
on!(webdav_not_durable: super::WebDav, ftp_not_durable: super::Ftp, ftps_mlsd_not_durable: super::FtpsMlsd,
    cloud_not_durable: super::Cloud; [
    what_a_server_lost_in_the_middle_is_never_published,
]);

// A double lives in the test's own process: it does not restart.
on!(cloud: super::Cloud; [
    killed_at_sixty_percent_sends_the_rest_and_at_most_what_was_at_stake,
    interrupted_on_a_frozen_line_ends_within_two_seconds,
    a_cut_line_is_taken_up_again_within_the_run,
    a_line_that_stalls_for_seconds_costs_no_retry,
    an_ipv6_address_is_as_good_as_any,
    no_secret_is_ever_written_down,
]);

fn source(box_: &Sandbox, size: u64) -> Laws {
    large_file(&box_.source().join("disk-b000.spf"), size, 5);
    random_file(&box_.source().join("disk-b000-i001.spi"), 300_017, 6);
    Laws::new().allow(&box_.source()).parent("disk-b000-i001.spi", "disk-b000.spf")
}

#[track_caller]
fn same(box_: &Sandbox, backend: &impl Network) {
    let (there, left) = backend.look(|dir| (tree(dir), debris(dir)));
    assert_eq!(tree(&box_.source()), there);
    assert_eq!((left, backend.unfinished()), (Vec::<PathBuf>::new(), 0), "debris");
}

/// The highest resident set of any worker so far, bytes.
fn peak(run: &Running) -> u64 {
    let of = |pid: u32| -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    };
    run.workers().into_iter().filter_map(|(pid, _)| of(pid)).max().unwrap_or(0)
}

fn killed_at_sixty_percent_sends_the_rest_and_at_most_what_was_at_stake<B: Network>() {
    const SIZE: u64 = 512 * MIB;
    const STREAMS: u64 = 4;
    let box_ = Sandbox::new();
    let backend = B::start();
    let laws = source(&box_, SIZE);
    let proxy = backend.proxy();
    // So that the line and not this machine's mood decides where 60 % is.
    proxy.throttle(Some(120_000_000));
    let command = || backend.through(proxy.address()).run(&box_).args(["--streams", &STREAMS.to_string()]);
    let run = command().start(&box_.path("home"));
    wait_until("60 % passed the proxy", LIMIT, || proxy.count(Direction::Up) >= SIZE * 6 / 10);
    let memory = peak(&run);
    kill_all(&run);
    run.wait(Duration::from_secs(10));
    wait_until("the line is quiet", LIMIT, || {
        let before = proxy.count(Direction::Up);
        std::thread::sleep(Duration::from_millis(100));
        proxy.count(Direction::Up) == before
    });
    let before = proxy.count(Direction::Up);
    assert!(before < SIZE * 8 / 10, "killed too late to show anything: {before}");
    assert!(memory > 0 && memory < 150 * MIB, "a worker took {} MiB", memory / MIB);
    backend.look(|dir| laws.hold(dir));
    proxy.throttle(None);
    command().run().expect(0);
    let after = proxy.count(Direction::Up) - before;
    // What the protocols add around the bytes, and what lay in the line's own buffers when it was cut.
    let slack = SIZE / 100 + 8 * MIB;
    let most = SIZE - before + B::at_stake(STREAMS) + slack;
    assert!(
        after <= most,
        "after {} MiB, {} MiB were sent, at most {}",
        before / MIB,
        after / MIB,
        most / MIB
    );
    same(&box_, &backend);
}

/// The server's crash, as a power cut leaves files: a hole in the middle of what it had acknowledged.
fn what_a_server_lost_in_the_middle_is_never_published<B: Network>() {
    const SIZE: u64 = 192 * MIB;
    let box_ = Sandbox::new();
    let backend = B::start();
    let laws = source(&box_, SIZE);
    let proxy = backend.proxy();
    proxy.throttle(Some(60_000_000));
    let command = || backend.through(proxy.address()).run(&box_).args(["--streams", "4"]);
    let run = command().start(&box_.path("home"));
    wait_until("75 % passed the proxy", LIMIT, || proxy.count(Direction::Up) >= SIZE * 3 / 4);
    kill_all(&run);
    run.wait(Duration::from_secs(10));
    let lost = backend.lose(16 * MIB, 24 * MIB);
    assert!(lost > 0, "there was nothing to lose");
    proxy.throttle(None);
    let next = command().run();
    backend.look(|dir| laws.hold(dir));
    assert_eq!(next.code, Some(0), "{}", next.all());
    same(&box_, &backend);
}

fn interrupted_on_a_frozen_line_ends_within_two_seconds<B: Network>() {
    let box_ = Sandbox::new();
    let backend = B::start();
    let laws = source(&box_, 32 * MIB);
    let proxy = backend.proxy();
    let reach = backend.through(proxy.address());
    // At the first byte; in the handshake; in the middle of a file.
    for after in [0, 700, 12 * MIB] {
        let connections = proxy.connections();
        proxy.freeze_at(Direction::Up, proxy.count(Direction::Up) + after);
        let run = reach.run(&box_).start(&box_.path("home"));
        wait_until("the line is frozen", LIMIT, || {
            proxy.frozen() && (after > 0 || proxy.connections() > connections)
        });
        std::thread::sleep(Duration::from_millis(500));
        run.signal(Signal::INT);
        let start = Instant::now();
        let ran = run.wait(Duration::from_secs(20));
        let took = start.elapsed();
        // Two seconds for the call that waits; the rest for the processes to end.
        assert!(took < Duration::from_millis(2600), "frozen after {after}: {took:?}\n{}", ran.all());
        assert_ne!(ran.code, Some(0), "frozen after {after}: {}", ran.all());
        backend.look(|dir| laws.hold(dir));
        proxy.cut();
        proxy.freeze(false);
    }
    reach.run(&box_).run().expect(0);
    same(&box_, &backend);
}

fn a_cut_line_is_taken_up_again_within_the_run<B: Network>() {
    let box_ = Sandbox::new();
    let backend = B::start();
    source(&box_, 64 * MIB);
    let proxy = backend.proxy();
    proxy.cut_at(Direction::Up, 40 * MIB);
    let ran = backend.through(proxy.address()).run(&box_).args(["--first-wait", "100ms"]).run().expect(0);
    assert!(ran.events().iter().any(|e| e["event"] == "retry"), "{}", ran.all());
    assert!(proxy.count(Direction::Up) > 64 * MIB);
    same(&box_, &backend);
}

/// Once in mid-file, and once where the last bytes are in buffers.
fn a_line_that_stalls_for_seconds_costs_no_retry<B: Network>() {
    let box_ = Sandbox::new();
    let backend = B::start();
    source(&box_, 32 * MIB);
    let proxy = backend.proxy();
    proxy.freeze_at(Direction::Up, 12 * MIB);
    let run = backend.through(proxy.address()).run(&box_).start(&box_.path("home"));
    for next in [Some(30 * MIB), None] {
        wait_until("the line stalls", LIMIT, || proxy.frozen());
        std::thread::sleep(Duration::from_secs(3));
        if let Some(next) = next {
            proxy.freeze_at(Direction::Up, next);
        }
        proxy.freeze(false);
    }
    let ran = run.wait(LIMIT).expect(0);
    assert!(!ran.events().iter().any(|e| e["event"] == "retry"), "{}", ran.all());
    same(&box_, &backend);
}

fn a_server_that_restarts_costs_a_retry<B: Network + Restart>() {
    let box_ = Sandbox::new();
    let mut backend = B::start();
    source(&box_, 48 * MIB);
    let proxy = backend.proxy();
    proxy.throttle(Some(40_000_000));
    let reach = backend.through(proxy.address());
    let run = reach.run(&box_).args(["--first-wait", "100ms"]).start(&box_.path("home"));
    wait_until("half of it passed", LIMIT, || proxy.count(Direction::Up) > 24 * MIB);
    backend.restart();
    proxy.throttle(None);
    run.wait(LIMIT).expect(0);
    same(&box_, &backend);
}

fn a_server_that_is_gone_is_told_in_words<B: Network + Restart>() {
    let box_ = Sandbox::new();
    let mut backend = B::start();
    source(&box_, MIB);
    let reach = backend.reach();
    backend.stop();
    let ran = reach.run(&box_).args(["--attempts", "2", "--first-wait", "50ms"]).run().expect(1);
    assert!(ran.all().to_lowercase().contains("refused"), "{}", ran.all());
    let check = reach.check(&box_).run().expect(1);
    assert!(check.all().to_lowercase().contains("refused"), "{}", check.all());
    backend.restart();
    reach.run(&box_).run().expect(0);
    same(&box_, &backend);
}

fn an_ipv6_address_is_as_good_as_any<B: Network>() {
    let box_ = Sandbox::new();
    let backend = B::start();
    source(&box_, 9 * MIB);
    let proxy = backend.proxy_over_ipv6();
    let reach = backend.through(proxy.address());
    assert!(reach.url.contains("[::1]:"), "{}", reach.url);
    reach.check(&box_).run().expect(0);
    reach.run(&box_).run().expect(0);
    assert!(proxy.count(Direction::Up) > 9 * MIB);
    same(&box_, &backend);
    let again = reach.run(&box_).run().expect(0);
    assert!(!again.events().iter().any(|e| e["event"] == "published"), "{}", again.all());
    same(&box_, &backend);
}

fn no_secret_is_ever_written_down<B: Network>() {
    let box_ = Sandbox::new();
    let (backend, reach) = B::start_with_secrets();
    assert!(!reach.secrets.is_empty());
    source(&box_, 9 * MIB);
    let mut said = reach.run(&box_).env("RUST_LOG", "trace").args(["-v"]).run().expect(0).all();
    said += &reach.check(&box_).env("RUST_LOG", "trace").run().expect(0).all();
    // Wrong ones, too: an error is where a secret slips out.
    let wrong = Reach { secrets: wrong(&reach), ..reach.clone() };
    said += &wrong.run(&box_).args(["--attempts", "1"]).run().all();
    let state = box_.path("state");
    for (name, secret) in
        reach.secrets.iter().chain(&wrong.secrets).filter(|(name, _)| name != "access_key_id")
    {
        assert!(!said.contains(secret), "{name} was printed:\n{said}");
        let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        for path in files(&state) {
            assert!(!holds(&std::fs::read(state.join(&path)).unwrap()), "{name} is in {}", path.display());
        }
        backend.look(|dir| {
            for path in files(dir).into_iter().filter(|path| path.to_string_lossy().contains("offsite-")) {
                assert!(!holds(&std::fs::read(dir.join(&path)).unwrap()), "{name} is in {}", path.display());
            }
        });
    }
}

fn wrong(reach: &Reach) -> Vec<(String, String)> {
    let wrong = |(name, value): &(String, String)| {
        let value = if name == "access_key_id" { value.clone() } else { value.chars().rev().collect() };
        (name.clone(), value)
    };
    reach.secrets.iter().map(wrong).collect()
}

/// A server that a test stops and starts again.
trait Restart {
    fn stop(&mut self);
    fn restart(&mut self);
}

macro_rules! restart {
    ($($backend:ty),+) => {
        $(impl Restart for $backend {
            fn stop(&mut self) {
                self.0.stop();
            }

            fn restart(&mut self) {
                self.0.restart();
            }
        })+
    };
}
restart!(S3, Sftp, WebDav, Smb, Ftp, Ftps, FtpsMlsd);
