//! Errors for people: one line of what failed, on what and why; what to do on a line of its own.

use super::print::note;
use super::table::clean;
use crate::config::Problems;
use crate::error::{Error, Kind};

/// The text of an error; `verbose` adds its kind and whether trying again can help.
pub(super) fn render(error: &Error, verbose: bool) -> String {
    let what = error.without_hint();
    let mut text =
        if verbose { format!("error: {what}") } else { format!("error: {}", clean(&first_line(&what))) };
    if let Some(hint) = &error.hint {
        text.push_str(&format!("\n  help: {}", clean(hint)));
    }
    if verbose {
        let kind = match &error.kind {
            Kind::Backend(kind) => format!("backend, {kind}"),
            kind => format!("{kind:?}"),
        };
        text.push_str(&format!("\n  kind: {kind}; retry: {:?}", error.retry));
    }
    text
}

/// Layout mismatches and the like print pages: those are for `-v`.
fn first_line(text: &str) -> String {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    if lines.next().is_some() { format!("{first} (more with -v)") } else { first.to_owned() }
}

/// Shows an error.
pub fn error(error: &Error, verbose: bool) {
    note(&render(error, verbose));
}

/// Shows everything that is wrong with a configuration or a line of flags.
pub fn problems(problems: &Problems) {
    for problem in &problems.0 {
        note(&format!("error: {}", clean(&problem.to_string())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_and_its_help() {
        let error = Error::new(Kind::Source, "cannot read the source")
            .on("/backups")
            .because("stale file handle\nframe 1\nframe 2")
            .hint("mount it again");
        insta::assert_snapshot!(render(&error, false), @r"
        error: cannot read the source: /backups: stale file handle (more with -v)
          help: mount it again
        ");
        insta::assert_snapshot!(render(&error, true), @r"
        error: cannot read the source: /backups: stale file handle
        frame 1
        frame 2
          help: mount it again
          kind: Source; retry: Never
        ");
    }
}
