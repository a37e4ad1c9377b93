//! A worker's life: read the request, listen to the control pipe, do what was asked, answer, end.
//!
//! The control pipe's end means that the supervisor is gone: the worker stops at a checkpoint, and ends within
//! [`GRACE`] whatever its plugin is doing. A worker that ends without a last word is one that crashed, and is started
//! again; that is also how a plugin that panicked gets a fresh process.

use std::io::BufRead;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use zeroize::Zeroizing;

use super::call::Line;
use super::meter::Meter;
use super::open::Answers;
use super::outbox::Outbox;
use super::pace::Pacer;
use super::protocol::{Answer, Control, Op, Request, Stop as Wish};
use super::stop::Stop;
use super::{ops, priority, replicate, scan_worker, warnings};
use crate::error::{BackendKind, Error, Kind, Result};
use crate::notice::NoticeCode;

/// How long a worker without a supervisor may take to record what is staged.
const GRACE: Duration = Duration::from_secs(3);
/// The status of a worker whose plugin panicked: the plugin's objects cannot be used any more (sysexits' EX_SOFTWARE).
const POISONED: u8 = 70;

/// Events and the answer go to the descriptor; the request comes from standard input.
pub fn main(events_fd: u32) -> ExitCode {
    let stop = Arc::new(Stop::default());
    let outbox = match Outbox::open(events_fd, Arc::clone(&stop)) {
        Ok(outbox) => Arc::new(outbox),
        Err(error) => {
            crate::report::error(&error, false);
            return crate::report::exit::of_error(&error).into();
        }
    };
    let answers = Arc::new(Answers::default());
    let result = request().and_then(|request| {
        log(request.verbose, &outbox);
        set_priority(&request, &outbox);
        listen(Arc::clone(&stop), Arc::clone(&answers));
        answer(&request, &outbox, &stop, &answers)
    });
    match result {
        Ok(Some(answer)) => outbox.answer(answer),
        Ok(None) => {}
        Err(error) if error.is_backend(&BackendKind::Panicked) => {
            outbox.log("error", error.to_string());
            return ExitCode::from(POISONED);
        }
        Err(error) => outbox.answer(Answer::Failed(error)),
    }
    ExitCode::SUCCESS
}

fn answer(
    request: &Request,
    outbox: &Arc<Outbox>,
    stop: &Arc<Stop>,
    answers: &Arc<Answers>,
) -> Result<Option<Answer>> {
    if matches!(request.op, Op::Scan | Op::Look) {
        return scan_worker::run(request, outbox, stop).map(Some);
    }
    if matches!(request.op, Op::AcceptSource { .. }) {
        return scan_worker::accept_source(request, outbox, stop).map(Some);
    }
    let line = Line {
        stop: Arc::clone(stop),
        pacer: Arc::new(Pacer::new(request.target()?.bandwidth.clone())),
        meter: Arc::new(Meter::default()),
        outbox: Arc::clone(outbox),
    };
    match &request.op {
        Op::Run => replicate::run(request, &line, answers).map(|()| None),
        _ => ops::answer(request, &line, answers).map(Some),
    }
}

fn set_priority(request: &Request, outbox: &Outbox) {
    if request.op == Op::Run
        && let Ok(target) = request.target()
        && let Some(text) = priority::apply(target.priority)
    {
        outbox.notice(NoticeCode::Priority, text);
    }
}

/// The supervisor captures standard error as log text; warnings are told as well.
fn log(verbose: bool, outbox: &Arc<Outbox>) {
    let filter = EnvFilter::try_from_env("OFFSITE_LOG")
        .unwrap_or_else(|_| EnvFilter::new(if verbose { "debug" } else { "warn,offsite::plugin=info" }));
    // A second request to set it (in tests) changes nothing.
    let text = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .with_filter(filter);
    let told = warnings::Layer(Arc::clone(outbox)).with_filter(LevelFilter::WARN);
    let _ = tracing_subscriber::registry().with(text).with(told).try_init();
}

fn request() -> Result<Request> {
    let mut line = Zeroizing::new(String::with_capacity(64 * 1024));
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|e| Error::new(Kind::Usage, "cannot read the worker's request").because(e))?;
    // What serde says of it may quote a secret: only where it stands is told.
    serde_json::from_str(&line).map_err(|e| {
        let place = format!("line {}, column {}", e.line(), e.column());
        Error::new(Kind::Usage, "the worker's request is no request").because(place)
    })
}

/// Ends at once. Not by `exit`, whose handlers may wait for ever for a library that a plugin's thread is inside of: the
/// worker, and its lock on the target, would stay.
fn leave() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    loop {
        std::thread::park();
    }
}

fn listen(stop: Arc<Stop>, answers: Arc<Answers>) {
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Zeroizing::new(String::new());
            if !matches!(input.read_line(&mut line), Ok(n) if n > 0) {
                break;
            }
            match serde_json::from_str(&line) {
                Ok(Control::Stop(Wish::Checkpoint)) => stop.set(),
                Ok(Control::Stop(Wish::Now)) => leave(),
                Ok(Control::Secret { name, value }) => answers.give(name, value),
                Err(_) => tracing::warn!("the supervisor sent a line that is no control line"),
            }
        }
        stop.set();
        std::thread::sleep(GRACE);
        leave();
    });
}
