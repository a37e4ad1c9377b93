//! The command line: the clap tree, and one file per command.

/// Parses the arguments, runs the command, and gives the process's exit code.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
