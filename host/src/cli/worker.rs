//! `offsite worker`: what the supervisor starts. Not for people.

use std::process::ExitCode;

use super::args::WorkerArgs;
use crate::report::exit::Exit;
use crate::report::{line, note};
use crate::run::{places, worker};

pub fn main(args: &WorkerArgs) -> ExitCode {
    if let Some(path) = &args.look {
        return match places::report(path) {
            Ok(found) => {
                line(&found);
                Exit::Done.into()
            }
            Err(why) => {
                note(&why);
                Exit::Failed.into()
            }
        };
    }
    worker::main(args.events_fd.unwrap_or_default())
}
