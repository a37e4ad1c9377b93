//! `offsite.toml` -> jobs, or everything that is wrong with it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Problems, Text};
use super::section::{Notes, Section, kind};
use super::{Job, target, units, url};

/// Longest configuration read, bytes.
const LONGEST: u64 = 4 << 20;

/// Seconds a file must stay unchanged, unless the job says otherwise.
pub const SETTLE: Duration = Duration::from_secs(30);

/// Reads and checks a configuration file. Nothing but the file itself is opened.
pub fn load(path: &Path) -> Result<Vec<Job>, Problems> {
    let failed = |what: String| Problem {
        file: Some(path.to_owned()),
        line: None,
        key: String::new(),
        what,
        hint: None,
    };
    let text = std::fs::metadata(path)
        .and_then(|meta| match meta.len() {
            n if n > LONGEST => Err(std::io::Error::other("it is larger than 4 MiB")),
            _ => std::fs::read_to_string(path),
        })
        .map_err(|e| failed(format!("cannot read the configuration: {e}")))?;
    let base = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let base = base.parent().unwrap_or(Path::new("/")).to_owned();
    read(path, &text, &base)
}

/// The same for a text; relative paths are taken from `base`.
pub fn read(path: &Path, text: &str, base: &Path) -> Result<Vec<Job>, Problems> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let notes = Notes { text: Text::new(path, text), base, found: RefCell::default() };
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        notes.add(notes.text.problem(at, "", error.message()));
    }
    // What a half-read table seems to lack is noise beside the syntax error.
    let broken = !notes.found.borrow().is_empty();
    let jobs = if broken { Vec::new() } else { document(&table, &notes, base) };
    let mut problems = Problems(notes.found.into_inner());
    if problems.0.is_empty() {
        return Ok(jobs);
    }
    problems.sort();
    Err(problems)
}

fn document<'a>(table: &'a Spanned<DeTable<'a>>, notes: &'a Notes<'a>, base: &Path) -> Vec<Job> {
    let root = Section::new(table.get_ref(), 0, String::new(), notes);
    let mut jobs: Vec<(Job, usize)> = Vec::new();
    match root.value("job") {
        None => root.missing("job", "write a [[job]] with name, source and one to three [[job.target]]"),
        Some(value) => {
            for (table, at) in tables(&root, "job", value) {
                let name = table.get("name").and_then(|n| n.get_ref().as_str()).unwrap_or_default();
                let path = if name.is_empty() { "job".to_owned() } else { format!("job.{name}") };
                if let Some(job) = job(&Section::new(table, at, path, notes), base) {
                    jobs.push((job, at));
                }
            }
        }
    }
    let mut first = BTreeMap::new();
    for (job, at) in &jobs {
        if let Some(line) = first.insert(&job.name, notes.text.line(*at)) {
            let what = format!("the name '{}' is already taken by the job of line {line}", job.name);
            notes.add(notes.text.problem(*at, "job.name", what));
        }
    }
    root.finish();
    jobs.into_iter().map(|(job, _)| job).collect()
}

/// The tables of `[[key]]` (or of a single `[key]`).
fn tables<'a>(
    section: &Section<'a>,
    key: &str,
    value: &'a Spanned<DeValue<'a>>,
) -> Vec<(&'a DeTable<'a>, usize)> {
    let one = |item: &'a Spanned<DeValue<'a>>| match item.get_ref().as_table() {
        Some(table) => Some((table, item.span().start)),
        None => {
            section.wrong(key, item, format!("must be a table, not {}", kind(item)));
            None
        }
    };
    match value.get_ref().as_array() {
        Some(items) => items.iter().filter_map(one).collect(),
        None => one(value).into_iter().collect(),
    }
}

fn job(section: &Section<'_>, base: &Path) -> Option<Job> {
    let name = section.parsed("name", check_name);
    if section.value("name").is_none() {
        section.missing("name", "every job has a name; its state is kept under it");
    }
    let source = section.text("source").filter(|s| !s.is_empty()).map(|text| url::directory(text, base));
    if section.value("source").is_none() {
        section.missing("source", "the folder in which the backup product writes");
    }
    let settle = section.parsed("settle", units::duration).unwrap_or(SETTLE);
    let include_other = section.flag("include_other").unwrap_or(false);
    let ignore = section.list("ignore", target::glob);
    let mut targets = Vec::new();
    let mut wanted = 0;
    match section.value("target") {
        None => section.missing("target", "write one to three [[job.target]]"),
        Some(value) => {
            let all = tables(section, "target", value);
            wanted = all.len();
            if let Some((_, at)) = all.get(3) {
                let what = format!(
                    "the job has {}; a job has one to three",
                    crate::words::count(wanted as u64, "target")
                );
                section.note(section.problem("target", *at, what).hint("add a second job for the others"));
            }
            if wanted == 0 {
                section.missing("target", "write one to three [[job.target]]");
            }
            for (index, (table, at)) in all.iter().enumerate() {
                let name = table.get("name").and_then(|n| n.get_ref().as_str());
                let path = section.key(&format!("target.{}", name.unwrap_or(&(index + 1).to_string())));
                let part = Section::new(table, *at, path, section.notes());
                if let Some(mut target) = target::read(part, index, base) {
                    target.plan.include_other = include_other;
                    targets.push((target, *at));
                }
            }
        }
    }
    for (at, (target, offset)) in targets.iter().enumerate() {
        for (other, _) in &targets[..at] {
            if other.name == target.name {
                let what = format!("the name '{}' is taken by another target of this job", target.name);
                section.note(section.problem("target.name", *offset, what));
            }
            if other.url == target.url {
                let what = format!("'{}' is already the place of target '{}'", target.url, other.name);
                section.note(section.problem("target.url", *offset, what));
            }
        }
    }
    section.finish();
    let complete = targets.len() == wanted;
    let targets = targets.into_iter().map(|(t, _)| t).collect();
    complete.then_some(Job { name: name?, source: source?, targets, settle, ignore })
}

/// The line of a target's table, for what is found out after the file was read.
pub fn line_of(path: &Path, job: &str, target: &str) -> Option<usize> {
    let text = std::fs::read_to_string(path).ok()?;
    let root = DeTable::parse(&text).ok()?;
    let named = |value: &Spanned<DeValue<'_>>, name: &str, index: usize| {
        let own = value.get_ref().get("name").and_then(|n| n.get_ref().as_str());
        own.map_or_else(|| name == format!("target{}", index + 1), |own| own == name)
    };
    let find = |value: &'_ Spanned<DeValue<'_>>, name: &str| -> Option<usize> {
        let items = value.get_ref().as_array()?;
        items.iter().enumerate().position(|(index, item)| named(item, name, index))
    };
    let jobs = root.get_ref().get("job")?;
    let job = jobs.get_ref().as_array()?.get(find(jobs, job)?)?;
    let targets = job.get_ref().get("target")?;
    let found = targets.get_ref().as_array()?.get(find(targets, target)?)?;
    Some(Text::new(path, &text).line(found.span().start))
}

/// A name that is a directory's name and safe in a title: letters, digits, `-`, `_`, `.`; at most 64.
pub(super) fn check_name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.chars().all(good) {
        return Err(format!(
            "'{text}' is no name; names have up to 64 letters, digits, '-', '_', '.', and begin with no dot"
        ));
    }
    Ok(text.to_owned())
}

/// The source folder as given on the command line.
pub fn source_dir(path: &Path) -> PathBuf {
    let base = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    url::tidy(&base.join(path))
}
