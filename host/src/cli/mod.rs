//! The command line: the clap tree, and one file per command.

mod args;
mod chains;
mod check;
mod config;
mod each;
mod plan;
mod plugin;
mod run;
mod session;
mod source;
mod status;
mod target;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

use crate::report::exit::Exit;
use crate::report::{line, note};

/// Parses the arguments, runs the command, and gives the process's exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let text = error.render().to_string();
            if error.use_stderr() {
                note(text.trim_end());
                return Exit::Usage.into();
            }
            line(text.trim_end());
            return Exit::Done.into();
        }
    };
    match &cli.command {
        Command::Run(args) => run::main(&cli.global, args).into(),
        Command::Plan(args) => plan::main(&cli.global, args).into(),
        Command::Chains(args) => chains::main(&cli.global, args).into(),
        Command::Check(args) => check::main(&cli.global, args).into(),
        Command::Status(args) => status::main(&cli.global, args).into(),
        Command::Config(args) => config::main(&cli.global, args).into(),
        Command::Plugin(args) => plugin::main(&cli.global, args).into(),
        Command::Target(args) => target::main(&cli.global, args).into(),
        Command::Source(args) => source::main(&cli.global, args).into(),
        Command::Worker(args) => worker::main(args),
    }
}
