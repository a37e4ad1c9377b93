//! One `[[job.target]]` table -> [`Target`].

use std::path::Path;

use super::section::{Section, json, nearest, scalar};
use super::{Bandwidth, Priority, Retry, Target, Verify, Window, secrets, units, url};
use crate::format::Format;
use crate::plan::{DeleteFirst, Filter, Options, Policy};

/// `None` after noting what is missing. `index` names a target without a name.
pub(super) fn read(section: Section<'_>, index: usize, base: &Path) -> Option<Target> {
    let name = match section.value("name") {
        None => Some(format!("target{}", index + 1)),
        Some(_) => section.parsed("name", super::file::check_name),
    };
    let address = section.text("url").and_then(|text| match url::normalise(text, base) {
        Ok(url) => Some(url),
        Err((what, hint)) => {
            let at = section.value("url").map_or(0, |v| v.span().start);
            let problem = section.problem("url", at, what);
            section.note(match hint {
                Some(hint) => problem.hint(hint),
                None => problem,
            });
            None
        }
    });
    if section.value("url").is_none() {
        section.missing("url", "a path, or a URL such as sftp://user@host/path");
    }
    let target = Target {
        name: name.unwrap_or_default(),
        url: address.clone().unwrap_or_default(),
        options: options(&section),
        secrets: secrets::of_target(&section),
        retry: retry(&section),
        priority: section.parsed("priority", priority).unwrap_or_default(),
        streams: section.whole("streams", 1..=64),
        bandwidth: bandwidth(&section),
        verify: section.parsed("verify", verify).unwrap_or_default(),
        plan: plan(&section),
    };
    section.finish();
    (!target.name.is_empty() && address.is_some()).then_some(target)
}

fn options(section: &Section<'_>) -> serde_json::Value {
    let empty = || serde_json::Value::Object(serde_json::Map::new());
    let Some(table) = section.table("options") else { return empty() };
    secrets::refuse_literals(&table);
    let mut map = serde_json::Map::new();
    for (key, _, value) in table.entries() {
        match json(value.get_ref()) {
            Ok(json) => {
                map.insert(key.to_owned(), json);
            }
            Err(what) => table.wrong(key, value, what),
        }
    }
    serde_json::Value::Object(map)
}

fn retry(section: &Section<'_>) -> Retry {
    let default = Retry::default();
    let Some(table) = section.table("retry") else { return default };
    let retry = Retry {
        attempts: table.whole("attempts", 1..=1000).unwrap_or(default.attempts),
        first_wait: table.parsed("first_wait", units::duration).unwrap_or(default.first_wait),
    };
    table.finish();
    retry
}

fn bandwidth(section: &Section<'_>) -> Bandwidth {
    let Some(value) = section.value("bandwidth") else { return Bandwidth::default() };
    if scalar(value).is_some() {
        return Bandwidth { rate: section.parsed("bandwidth", units::rate), windows: Vec::new() };
    }
    let Some(table) = section.table("bandwidth") else { return Bandwidth::default() };
    let rate = table.parsed("rate", units::rate);
    let mut windows = Vec::new();
    if let Some(value) = table.value("windows") {
        for item in value.get_ref().as_array().map(|a| a.iter()).into_iter().flatten() {
            match item.get_ref().as_table() {
                Some(t) => {
                    let part = Section::new(t, item.span().start, table.key("windows"), section.notes());
                    windows.extend(window(&part));
                }
                None => table.wrong(
                    "windows",
                    item,
                    "must be { days = \"mon-fri\", from = \"08:00\", to = \"18:00\", rate = \"10MiB\" }",
                ),
            }
        }
        if value.get_ref().as_array().is_none() {
            table.wrong("windows", value, "must be a list of tables");
        }
    }
    table.finish();
    Bandwidth { rate, windows }
}

fn window(section: &Section<'_>) -> Option<Window> {
    let days = match section.value("days") {
        None => Some((0..7).collect()),
        Some(_) => section.parsed("days", units::days),
    };
    let from = section.value("from").map_or(Some(0), |_| section.parsed("from", units::clock));
    let to = section.value("to").map_or(Some(24 * 60), |_| section.parsed("to", units::clock));
    if section.value("rate").is_none() {
        section.missing("rate", "bytes a second in this window; 0 closes it");
    }
    let rate = section.parsed("rate", units::rate);
    if from.is_some() && from == to {
        section.missing("to", "a window that ends when it begins is empty");
    }
    section.finish();
    Some(Window { days: days?, from: from?, to: to?, rate: rate? })
}

fn plan(section: &Section<'_>) -> Options {
    let default = Options::default();
    let options = Options {
        sync: section.flag("sync").unwrap_or(false),
        filter: filter(section),
        policy: section.parsed("policy", policy),
        subfolder: section.text("subfolder").map(str::to_owned),
        max_delete: section.parsed("max_delete", units::share).unwrap_or(default.max_delete),
        accept_unproven: section.flag("accept_unproven").unwrap_or(false),
        delete_first: delete_first(section),
        delete_after_ns: section.parsed("delete_after", units::duration).map_or(0, nanoseconds),
        ..default
    };
    for (key, what, hint) in clashes(&options) {
        let at = section.value(key).map_or(0, |v| v.span().start);
        section.note(section.problem(key, at, what).hint(hint));
    }
    options
}

/// `true`, `false` or `"last"`.
fn delete_first(section: &Section<'_>) -> DeleteFirst {
    let Some(value) = section.value("delete_first") else { return DeleteFirst::No };
    match (value.get_ref().as_bool(), value.get_ref().as_str()) {
        (Some(true), _) => DeleteFirst::Proved,
        (Some(false), _) => DeleteFirst::No,
        (None, Some("last")) => DeleteFirst::Last,
        _ => {
            section.wrong("delete_first", value, "must be true, false or \"last\"");
            DeleteFirst::No
        }
    }
}

/// As many as fit.
pub(super) fn nanoseconds(time: std::time::Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

fn filter(section: &Section<'_>) -> Filter {
    let Some(table) = section.table("filter") else { return Filter::default() };
    let filter = Filter {
        kinds: table.list("kinds", image_kind),
        formats: table.list("formats", format),
        include: table.list("include", glob),
        exclude: table.list("exclude", glob),
    };
    table.finish();
    filter
}

/// Planning options that contradict each other or say nothing: (key, what, hint).
pub(super) fn clashes(options: &Options) -> Vec<(&'static str, String, String)> {
    let mut found = Vec::new();
    let hint = "remove one of the two: sync mirrors the source, deletions included";
    if options.sync && options.filter != Filter::default() {
        found.push(("filter", "cannot be combined with sync".to_owned(), hint.to_owned()));
    }
    if options.sync && options.policy.is_some() {
        found.push(("policy", "cannot be combined with sync".to_owned(), hint.to_owned()));
    }
    if options.sync && options.subfolder.is_some() {
        found.push(("subfolder", "cannot be combined with sync".to_owned(), hint.to_owned()));
    }
    let nothing = "says nothing without sync: without it nothing is deleted";
    let hint = "remove it, or add sync = true";
    if !options.sync && options.delete_after_ns > 0 {
        found.push(("delete_after", nothing.to_owned(), hint.to_owned()));
    }
    if !options.sync && options.delete_first != DeleteFirst::No {
        found.push(("delete_first", nothing.to_owned(), hint.to_owned()));
    }
    if let Some(template) = &options.subfolder
        && let Err(what) = subfolder(template)
    {
        let hint = "known are {job}, {host}, {set} and {date}".to_owned();
        found.push(("subfolder", what, hint));
    }
    found
}

/// A relative path whose only placeholders are known.
pub(super) fn subfolder(template: &str) -> Result<(), String> {
    let mut rest = template;
    let mut plain = String::new();
    while let Some(open) = rest.find(['{', '}']) {
        plain.push_str(&rest[..open]);
        let close = rest[open..].find('}').filter(|_| rest[open..].starts_with('{'));
        let Some(close) = close else { return Err(format!("'{template}' has an unpaired brace")) };
        let name = &rest[open + 1..open + close];
        if !["job", "host", "set", "date"].contains(&name) {
            return Err(format!("'{{{name}}}' is no placeholder"));
        }
        plain.push('x');
        rest = &rest[open + close + 1..];
    }
    plain.push_str(rest);
    if plain.is_empty() {
        return Err("is empty".to_owned());
    }
    offsite_plugin_api::TargetPath::new(plain.trim_end_matches('/').as_bytes())
        .map(|_| ())
        .map_err(|_| format!("'{template}' is no relative path inside the target"))
}

/// One word of a list, or what was meant.
fn word<T: Copy>(text: &str, what: &str, known: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, value)) = known.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    Err(match nearest(text, names.iter().copied()) {
        Some(near) => format!("'{text}' is no {what}; did you mean '{near}'?"),
        None => format!("'{text}' is no {what}; known are {}", names.join(", ")),
    })
}

pub(super) fn priority(text: &str) -> Result<Priority, String> {
    word(text, "priority", &[("low", Priority::Low), ("normal", Priority::Normal), ("high", Priority::High)])
}

pub(super) fn verify(text: &str) -> Result<Verify, String> {
    let known = [
        ("auto", Verify::Auto),
        ("size", Verify::Size),
        ("sampled", Verify::Sampled),
        ("digest", Verify::Digest),
        ("read-back", Verify::ReadBack),
    ];
    word(text, "verify level", &known)
}

pub(super) fn policy(text: &str) -> Result<Policy, String> {
    word(text, "policy", &[("new-images", Policy::NewImages), ("new-sets", Policy::NewSets)])
}

pub(super) fn image_kind(text: &str) -> Result<crate::format::ImageKind, String> {
    use crate::format::ImageKind::{Base, Differential, Incremental};
    word(
        text,
        "kind of image",
        &[("base", Base), ("incremental", Incremental), ("differential", Differential)],
    )
}

pub(super) fn format(text: &str) -> Result<Format, String> {
    let known = [
        ("qcow2", Format::Qcow2),
        ("activeimage", Format::ActiveImage),
        ("shadowprotect", Format::ShadowProtect),
        ("macrium", Format::Macrium),
        ("acronis", Format::Acronis),
        ("veeam", Format::Veeam),
        ("virtnbdbackup", Format::Virtnbdbackup),
        ("vzdump", Format::Vzdump),
    ];
    word(text, "format", &known)
}

pub(crate) fn glob(text: &str) -> Result<String, String> {
    match globset::Glob::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(e) => Err(format!("'{text}' is no pattern: {}", e.kind())),
    }
}
