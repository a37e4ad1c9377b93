//! Exit codes; known nowhere else. [`HELP`] says what each means.

use std::process::ExitCode;

use super::Outcome;
use crate::error::{Error, Kind};
use crate::run::supervisor::JobEnd;

/// Below `--help`, as in the README.
pub const HELP: &str = "\
Exit codes:
  0  all done
  1  failed; for status: no run with nothing wrong ended within --max-age, or a set lags longer
  2  the command line or the configuration is wrong; nothing was done
  3  not everything was done: a target failed (where all did: 1), an image does not fit or
     cannot be read, deletions are held, an image is never finished, or nothing in the source
     is an image";

/// What a command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    Usage,
    Partly,
}

impl Exit {
    pub fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Partly => 3,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.number())
    }
}

/// For a command that failed as a whole.
pub fn of_error(error: &Error) -> Exit {
    match error.kind {
        Kind::Usage | Kind::Config => Exit::Usage,
        _ => Exit::Failed,
    }
}

/// For commands that ask each target something: how many answered as hoped, and why the others did not (`None`: the
/// answer itself was a no).
pub fn of_answers<'e>(good: usize, bad: impl IntoIterator<Item = Option<&'e Error>>) -> Exit {
    let exits: Vec<Exit> = bad.into_iter().map(|error| error.map_or(Exit::Failed, of_error)).collect();
    match exits.as_slice() {
        [] => Exit::Done,
        _ if good > 0 => Exit::Partly,
        all if all.iter().all(|exit| *exit == Exit::Usage) => Exit::Usage,
        _ => Exit::Failed,
    }
}

/// For a run.
pub fn of_run(ends: &[JobEnd]) -> Exit {
    let (mut good, mut bad, mut fault) = (0, Vec::new(), false);
    for end in ends {
        match &end.result {
            Err(error) => bad.push(Some(error)),
            Ok(targets) => {
                for target in targets {
                    fault |= target.fault;
                    if target.outcome == Outcome::Done { good += 1 } else { bad.push(target.error.as_ref()) }
                }
            }
        }
    }
    match of_answers(good, bad) {
        Exit::Done if fault => Exit::Partly,
        exit => exit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BackendKind;
    use crate::run::supervisor::TargetEnd;

    fn job(outcomes: &[Outcome], fault: bool) -> JobEnd {
        let end = |o: &Outcome| TargetEnd { target: "t".into(), outcome: *o, fault, error: None };
        JobEnd { job: "j".into(), result: Ok(outcomes.iter().map(end).collect()) }
    }

    fn refused(kinds: &[Kind]) -> JobEnd {
        let end = |kind: &Kind| TargetEnd {
            target: "t".into(),
            outcome: Outcome::Failed,
            fault: false,
            error: Some(Error::new(kind.clone(), "x")),
        };
        JobEnd { job: "j".into(), result: Ok(kinds.iter().map(end).collect()) }
    }

    fn broken(kind: Kind) -> JobEnd {
        JobEnd { job: "j".into(), result: Err(Error::new(kind, "x")) }
    }

    /// The same cases as in the README's table.
    #[test]
    fn the_help_names_the_cases_of_each_code() {
        let readme = include_str!("../../../README.md");
        assert!(HELP.lines().all(|line| line.len() < 100), "wider than the help is shown");
        for case in [
            "nothing was done",
            "not everything was done: a target failed",
            "an image does not fit or cannot be read",
            "deletions are held",
            "an image is never finished",
            "nothing in the source is an image",
            "no run with nothing wrong ended within",
        ] {
            assert!(HELP.replace("\n     ", " ").contains(case), "{case}");
            assert!(readme.contains(case), "{case}");
        }
    }

    #[test]
    fn exit_codes_say_whether_everything_some_or_nothing_was_done() {
        use Outcome::{Done, Failed, Stopped};
        for (ends, exit) in [
            (vec![job(&[Done, Done], false)], Exit::Done),
            (vec![job(&[Done, Done], true)], Exit::Partly),
            (vec![job(&[Done, Failed], false)], Exit::Partly),
            (vec![job(&[Done, Stopped], false)], Exit::Partly),
            (vec![job(&[Failed, Failed], true)], Exit::Failed),
            (vec![job(&[Stopped], false)], Exit::Failed),
            (vec![job(&[Done], false), broken(Kind::Source)], Exit::Partly),
            (vec![broken(Kind::Source)], Exit::Failed),
            (vec![broken(Kind::Config)], Exit::Usage),
            (vec![refused(&[Kind::Config, Kind::Config])], Exit::Usage),
            (vec![refused(&[Kind::Config]), broken(Kind::Usage)], Exit::Usage),
            (vec![refused(&[Kind::Config, Kind::Backend(BackendKind::Denied)])], Exit::Failed),
            (vec![refused(&[Kind::Config]), job(&[Done], false)], Exit::Partly),
        ] {
            assert_eq!(of_run(&ends), exit, "{ends:?}");
        }
    }
}
