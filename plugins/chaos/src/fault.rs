//! When a fault is met, and the faults that need no help from the operation: ends, hangs, errors, noise.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use offsite_plugin_api::{Call, Error, ErrorKind, Result};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    op: String,
    mode: String,
    #[serde(default)]
    after: u64,
    times: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    Panic,
    Abort,
    Segfault,
    Exit,
    Hang,
    HangUncancellable,
    Slow(u64),
    Print,
    Error(ErrorKind),
    Effect(Effect),
}

/// What the operation itself has to do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    LieSize,
    ShortWrite,
    WrongBytes,
    CutAfter(u64),
    /// A listing leaves files out, and says nothing.
    Hide,
    /// A listing leaves files out, and says so.
    Skip,
}

/// The files that a listing leaves out: increments.
pub fn is_left_out(name: &[u8]) -> bool {
    name.ends_with(b".spi")
}

#[derive(Debug)]
struct Fault {
    op: String,
    mode: Mode,
    after: u64,
    times: Option<u64>,
    calls: AtomicU64,
    counter: Option<PathBuf>,
}

#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    pub fn new(written: Vec<Written>, counter_dir: Option<&str>) -> Result<Self> {
        let mut faults = Vec::new();
        for (index, fault) in written.into_iter().enumerate() {
            let counter = counter_dir.map(|d| PathBuf::from(d).join(format!("chaos-{index}-{}", fault.op)));
            let mode = parse(&fault.mode)?;
            let calls = AtomicU64::new(0);
            faults.push(Fault { op: fault.op, mode, after: fault.after, times: fault.times, calls, counter });
        }
        Ok(Self(faults))
    }

    /// Counts this call and does what is due; `Some` is left to the operation.
    pub fn meet(&self, op: &str, call: Option<&Call>) -> Result<Option<Effect>> {
        let mut effect = None;
        for fault in self.0.iter().filter(|f| f.op == op) {
            let number = fault.count();
            if number <= fault.after || fault.times.is_some_and(|times| number > fault.after + times) {
                continue;
            }
            match &fault.mode {
                Mode::Effect(e) => effect = Some(*e),
                mode => happen(mode, op, call)?,
            }
        }
        Ok(effect)
    }
}

impl Fault {
    /// This call's number, from 1; over all processes where a counter file is given.
    fn count(&self) -> u64 {
        static LOCK: Mutex<()> = Mutex::new(());
        let Some(path) = &self.counter else { return self.calls.fetch_add(1, Ordering::SeqCst) + 1 };
        let _held = LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let number = std::fs::read(path).map_or(0, |bytes| bytes.len() as u64) + 1;
        std::fs::write(path, vec![b'.'; number as usize]).expect("the counter folder can be written");
        number
    }
}

fn parse(mode: &str) -> Result<Mode> {
    let number = |text: &str| {
        text.parse()
            .map_err(|_| Error::new(ErrorKind::InvalidConfig, format!("'{mode}': '{text}' is not a number")))
    };
    Ok(match mode.split_once(':') {
        Some(("error", kind)) => Mode::Error(ErrorKind::from_name(kind)),
        Some(("slow", ms)) => Mode::Slow(number(ms)?),
        Some(("cut-after", bytes)) => Mode::Effect(Effect::CutAfter(number(bytes)?)),
        None if mode == "panic" => Mode::Panic,
        None if mode == "abort" => Mode::Abort,
        None if mode == "segfault" => Mode::Segfault,
        None if mode == "exit" => Mode::Exit,
        None if mode == "hang" => Mode::Hang,
        None if mode == "hang-uncancellable" => Mode::HangUncancellable,
        None if mode == "print" => Mode::Print,
        None if mode == "unknown-kind" => Mode::Error(ErrorKind::Unknown("Frobnicated".into())),
        None if mode == "lie-size" => Mode::Effect(Effect::LieSize),
        None if mode == "short-write" => Mode::Effect(Effect::ShortWrite),
        None if mode == "hide" => Mode::Effect(Effect::Hide),
        None if mode == "skip" => Mode::Effect(Effect::Skip),
        None if mode == "wrong-bytes" => Mode::Effect(Effect::WrongBytes),
        _ => return Err(Error::new(ErrorKind::InvalidConfig, format!("no fault is called '{mode}'"))),
    })
}

fn happen(mode: &Mode, op: &str, call: Option<&Call>) -> Result<()> {
    match mode {
        Mode::Panic => panic!("chaos: a panic at {op}, as asked"),
        Mode::Abort => std::process::abort(),
        Mode::Exit => std::process::exit(7),
        Mode::Segfault => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::SEGV);
            Ok(())
        }
        Mode::HangUncancellable => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        Mode::Hang => loop {
            if let Some(call) = call {
                call.proceed()?;
            }
            std::thread::sleep(Duration::from_millis(50));
        },
        Mode::Slow(ms) => {
            std::thread::sleep(Duration::from_millis(*ms));
            Ok(())
        }
        Mode::Print => {
            // As a C library prints: past Rust's own standard output.
            let line = format!("chaos prints at {op}\n");
            let _ = rustix::io::write(rustix::stdio::stdout(), line.as_bytes());
            let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
            Ok(())
        }
        Mode::Error(kind) => Err(Error::new(kind.clone(), format!("chaos: an error at {op}, as asked"))),
        Mode::Effect(_) => Ok(()),
    }
}
