//! Where secrets come from, as written: references only. A literal secret is refused with what to write instead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeValue;

use super::SecretRef;
use super::section::{Section, kind};

/// Names under which plugins and people keep secrets; the plugin's own schema knows better, but is asked only when the
/// target is opened, and by then a literal would have been accepted.
pub(super) fn looks_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace('-', "_");
    let words = ["password", "passwd", "passphrase", "secret", "token", "api_key", "apikey", "access_key"];
    words.iter().any(|word| key.contains(word))
        && !["_id", "_file", "_path", "_url"].iter().any(|end| key.ends_with(end))
}

/// `credentials = { password = { env = "NAME" } }`.
fn credentials(target: &Section<'_>) -> BTreeMap<String, SecretRef> {
    let Some(section) = target.table("credentials") else { return BTreeMap::new() };
    section
        .entries()
        .filter_map(|(name, _, value)| reference(&section, name, value).map(|r| (name.to_owned(), r)))
        .collect()
}

/// Under this name the key that signs the manifests is among a target's secrets. No plugin gets it, and no credential of a
/// plugin can have the name.
pub const MANIFEST_KEY: &str = "offsite.manifest_key";

/// The plugin's credentials, and `manifest_key`.
pub(super) fn of_target(target: &Section<'_>) -> BTreeMap<String, SecretRef> {
    let mut secrets = credentials(target);
    if let Some(value) = target.value("manifest_key")
        && let Some(from) = reference(target, "manifest_key", value)
    {
        secrets.insert(MANIFEST_KEY.to_owned(), from);
    }
    secrets
}

fn instead(name: &str) -> String {
    format!(
        "write {name} = {{ env = \"NAME\" }}, {name} = {{ file = \"/path\" }} or {name} = {{ command = [\"prog\", \"arg\"] }}"
    )
}

fn reference(section: &Section<'_>, name: &str, value: &Spanned<DeValue<'_>>) -> Option<SecretRef> {
    let at = value.span().start;
    let Some(table) = value.get_ref().as_table() else {
        let what = match value.get_ref() {
            DeValue::String(_) => {
                "holds a secret in clear; the configuration names only where a secret comes from"
            }
            _ => "must be a table that names where the secret comes from",
        };
        section.note(section.problem(name, at, what).hint(instead(name)));
        return None;
    };
    let bad = |what: String| {
        section.note(section.problem(name, at, what).hint(instead(name)));
        None
    };
    let mut entries = table.iter();
    let (Some((key, from)), None) = (entries.next(), entries.next()) else {
        return bad("must name exactly one of env, file, command".to_owned());
    };
    let text = from.get_ref().as_str();
    match (key.get_ref().as_ref(), text) {
        ("env", Some(var)) if !var.is_empty() && !var.contains(['=', '\0']) => {
            Some(SecretRef::Env(var.to_owned()))
        }
        ("file", Some(path)) if !path.is_empty() => {
            Some(SecretRef::File(super::url::directory(path, section.notes().base)))
        }
        ("command", _) => match command(from) {
            Some(words) => Some(SecretRef::Command(words)),
            None => bad(format!("command must be a list of texts, program first, not {}", kind(from))),
        },
        ("env" | "file", _) => bad(format!("{} must be a text in quotes", key.get_ref())),
        (other, _) => bad(format!("'{other}' is no source of secrets")),
    }
}

fn command(value: &Spanned<DeValue<'_>>) -> Option<Vec<String>> {
    let items = value.get_ref().as_array()?;
    let words: Option<Vec<String>> = items.iter().map(|i| i.get_ref().as_str().map(str::to_owned)).collect();
    words.filter(|w| w.first().is_some_and(|program| !program.is_empty()))
}

/// Refuses literal secrets among the plugin's options.
pub(super) fn refuse_literals(options: &Section<'_>) {
    for (name, at, _) in options.entries() {
        if looks_secret(name) {
            let problem = options.problem(name, at, "is a secret and does not belong among the options");
            options.note(problem.hint(format!("under credentials {}", instead(name))));
        }
    }
}

/// `NAME=env:VAR`, `NAME=file:PATH` or `NAME=command:PROG ARG …` of `--credential`.
pub(super) fn from_flag(text: &str, base: &Path) -> Result<(String, SecretRef), String> {
    let wrong = "write NAME=env:VARIABLE, NAME=file:PATH or NAME=command:PROGRAM ARGUMENT …";
    let (name, from) = text.split_once('=').filter(|(n, _)| !n.is_empty()).ok_or(wrong)?;
    let reference = match from.split_once(':') {
        Some(("env", var)) if !var.is_empty() => SecretRef::Env(var.to_owned()),
        Some(("file", path)) if !path.is_empty() => SecretRef::File(super::url::directory(path, base)),
        Some(("command", line)) if !line.trim().is_empty() => {
            SecretRef::Command(line.split_whitespace().map(str::to_owned).collect())
        }
        _ => return Err(format!("a secret itself cannot be given here; {wrong}")),
    };
    Ok((name.to_owned(), reference))
}

/// What a reference is, for people: never the value.
pub fn describe(reference: &SecretRef) -> String {
    match reference {
        SecretRef::Env(var) => format!("the environment variable {var}"),
        SecretRef::File(path) => format!("the file {}", PathBuf::from(path).display()),
        SecretRef::Command(words) => format!("the command '{}'", words.first().map_or("", String::as_str)),
    }
}
