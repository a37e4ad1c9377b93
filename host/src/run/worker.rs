//! A worker's life: read the request, listen to the control pipe, do what was asked, answer, end.
//!
//! The control pipe's end means that the supervisor is gone: the worker stops at a checkpoint, and ends within
//! [`GRACE`] whatever its plugin is doing.

use std::io::BufRead;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::outbox::Outbox;
use super::protocol::{Answer, Control, Failure, Op, Request, Stop as Wish};
use super::scan_worker;
use super::stop::Stop;
use crate::error::{Error, Kind, Result};

/// How long a worker without a supervisor may take to record what is staged.
const GRACE: Duration = Duration::from_secs(5);

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
    let answer = request().and_then(|request| {
        listen(Arc::clone(&stop));
        answer(&request, &outbox, &stop)
    });
    let answer = answer.unwrap_or_else(|error| Answer::Failed(Failure::from(&error)));
    outbox.answer(answer);
    ExitCode::SUCCESS
}

fn answer(request: &Request, outbox: &Arc<Outbox>, stop: &Arc<Stop>) -> Result<Answer> {
    match request.op {
        Op::Scan | Op::Look => scan_worker::run(request, outbox, stop),
        _ => Err(Error::new(Kind::Usage, "this worker cannot do that").on(format!("{:?}", request.op))),
    }
}

fn request() -> Result<Request> {
    let mut line = zeroize::Zeroizing::new(String::new());
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|e| Error::new(Kind::Usage, "cannot read the worker's request").because(e))?;
    serde_json::from_str(&line)
        .map_err(|e| Error::new(Kind::Usage, "the worker's request is no request").because(e))
}

fn listen(stop: Arc<Stop>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            match serde_json::from_str(&line) {
                Ok(Control::Stop(Wish::Checkpoint)) => stop.set(),
                Ok(Control::Stop(Wish::Now)) => std::process::exit(1),
                _ => {}
            }
        }
        stop.set();
        std::thread::sleep(GRACE);
        std::process::exit(1);
    });
}
