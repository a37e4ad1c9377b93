//! `--source DIR --to URL …` -> a job; the target options of the line apply to all of its targets.

use std::path::{Path, PathBuf};

use super::problem::{Problem, Problems};
use super::{Bandwidth, Job, Priority, Retry, Target, Verify, file, secrets, target, units, url};
use crate::plan::{Filter, Options};

/// The flags as typed; `None` and empty where not given.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub name: Option<String>,
    pub source: PathBuf,
    pub to: Vec<String>,
    pub settle: Option<String>,
    pub credentials: Vec<String>,
    /// `KEY=VALUE`: a JSON value, else a text.
    pub options: Vec<String>,
    pub attempts: Option<u32>,
    pub first_wait: Option<String>,
    pub priority: Option<String>,
    pub streams: Option<u32>,
    pub bandwidth: Option<String>,
    pub verify: Option<String>,
    pub sync: bool,
    pub kinds: Vec<String>,
    pub formats: Vec<String>,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub policy: Option<String>,
    pub subfolder: Option<String>,
    pub max_delete: Option<String>,
    pub delete_after: Option<String>,
    pub accept_unproven: bool,
    pub include_other: bool,
    pub ignore: Vec<String>,
}

/// Errors: all of them, each with its flag.
pub fn job(flags: &Flags) -> Result<Job, Problems> {
    let base = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let mut found = Vec::new();
    let job = build(flags, &base, &mut found);
    if found.is_empty() { Ok(job) } else { Err(Problems(found)) }
}

fn build(flags: &Flags, base: &Path, found: &mut Vec<Problem>) -> Job {
    let template = template(flags, base, found);
    if flags.to.is_empty() {
        found.push(Problem::flag("--to", "is missing").hint("name one to three targets"));
    }
    if flags.to.len() > 3 {
        let problem = Problem::flag(
            "--to",
            format!("was given {} times; a job has one to three targets", flags.to.len()),
        );
        found.push(problem.hint("add a second job for the others"));
    }
    let mut targets: Vec<Target> = Vec::new();
    for text in &flags.to {
        match url::normalise(text, base) {
            Ok(url) => {
                if targets.iter().any(|t| t.url == url) {
                    found.push(Problem::flag(
                        "--to",
                        format!("'{url}' is given twice: it is the same place as another target"),
                    ));
                }
                targets.push(Target { name: named_after(&url), url, ..template.clone() });
            }
            Err((what, hint)) => {
                let problem = Problem::flag("--to", format!("'{}' {what}", url::shown(text)));
                found.push(match hint {
                    Some(_) => problem.hint("remove it, and add --credential password=env:VARIABLE"),
                    None => problem,
                });
            }
        }
    }
    let source = file::source_dir(&flags.source);
    let settle = flag(found, "--settle", flags.settle.as_deref(), units::duration).unwrap_or(file::SETTLE);
    let name = flag(found, "--name", flags.name.as_deref(), file::check_name);
    let ignore = each(found, "--ignore", &flags.ignore, target::glob);
    Job { name: name.unwrap_or_else(|| name_of(&source)), source, targets, settle, ignore }
}

/// The name of a job on the line that was given none.
pub fn name_of(source: &Path) -> String {
    named_after(&source.to_string_lossy())
}

/// One name per place, whatever its position on the line, because state is kept under it: the last component, and a hash
/// that keeps apart what ends alike.
fn named_after(place: &str) -> String {
    let last = place.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let mut name: String = last
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' })
        .take(40)
        .collect();
    if name.is_empty() {
        name.push_str("root");
    }
    let hash = blake3::hash(place.as_bytes());
    format!("{name}-{}", &hash.to_hex()[..6])
}

fn template(flags: &Flags, base: &Path, found: &mut Vec<Problem>) -> Target {
    let retry = Retry::default();
    if flags.attempts == Some(0) {
        found.push(Problem::flag("--attempts", "must be at least 1"));
    }
    if flags.streams.is_some_and(|n| !(1..=64).contains(&n)) {
        found.push(Problem::flag("--streams", "must be from 1 to 64"));
    }
    let first_wait = flag(found, "--first-wait", flags.first_wait.as_deref(), units::duration);
    let plan = plan(flags, found);
    let mut names = std::collections::BTreeMap::new();
    for text in &flags.credentials {
        match secrets::from_flag(text, base) {
            Ok((name, reference)) => {
                names.insert(name, reference);
            }
            Err(what) => found.push(Problem::flag("--credential", what)),
        }
    }
    Target {
        name: String::new(),
        url: String::new(),
        options: options(&flags.options, found),
        secrets: names,
        retry: Retry {
            attempts: flags.attempts.unwrap_or(retry.attempts).max(1),
            first_wait: first_wait.unwrap_or(retry.first_wait),
        },
        priority: flag(found, "--priority", flags.priority.as_deref(), target::priority)
            .unwrap_or(Priority::Normal),
        streams: flags.streams,
        bandwidth: Bandwidth {
            rate: flag(found, "--bandwidth", flags.bandwidth.as_deref(), units::rate),
            windows: Vec::new(),
        },
        verify: flag(found, "--verify", flags.verify.as_deref(), target::verify).unwrap_or(Verify::Auto),
        plan,
    }
}

fn plan(flags: &Flags, found: &mut Vec<Problem>) -> Options {
    let default = Options::default();
    let options = Options {
        sync: flags.sync,
        filter: Filter {
            kinds: each(found, "--kind", &flags.kinds, target::image_kind),
            formats: each(found, "--format", &flags.formats, target::format),
            include: each(found, "--include", &flags.include, target::glob),
            exclude: each(found, "--exclude", &flags.exclude, target::glob),
        },
        policy: flag(found, "--policy", flags.policy.as_deref(), target::policy),
        subfolder: flags.subfolder.clone(),
        max_delete: flag(found, "--max-delete", flags.max_delete.as_deref(), units::share)
            .unwrap_or(default.max_delete),
        delete_after_ns: flag(found, "--delete-after", flags.delete_after.as_deref(), units::duration)
            .map_or(0, target::nanoseconds),
        include_other: flags.include_other,
        accept_unproven: flags.accept_unproven,
        ..default
    };
    for (key, what, hint) in target::clashes(&options) {
        let key = if key == "filter" {
            "--kind/--format/--include/--exclude".to_owned()
        } else {
            format!("--{}", key.replace('_', "-"))
        };
        found.push(Problem::flag(&key, what).hint(hint));
    }
    options
}

fn options(texts: &[String], found: &mut Vec<Problem>) -> serde_json::Value {
    let mut map = serde_json::Map::new();
    for text in texts {
        match text.split_once('=').filter(|(key, _)| !key.is_empty()) {
            None => found.push(Problem::flag("--option", format!("'{text}' is not KEY=VALUE"))),
            Some((key, _)) if secrets::looks_secret(key) => {
                let problem =
                    Problem::flag("--option", format!("'{key}' is a secret and does not belong here"));
                found.push(problem.hint(format!("use --credential {key}=env:VARIABLE or {key}=file:PATH")));
            }
            Some((key, value)) => {
                let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
                map.insert(key.to_owned(), value);
            }
        }
    }
    serde_json::Value::Object(map)
}

fn flag<T>(
    found: &mut Vec<Problem>,
    flag: &str,
    text: Option<&str>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<T> {
    parse(text?).map_err(|what| found.push(Problem::flag(flag, what))).ok()
}

fn each<T>(
    found: &mut Vec<Problem>,
    name: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    texts.iter().filter_map(|text| flag(found, name, Some(text), &parse)).collect()
}
