//! What `offsite plugin list` and `offsite plugin info` print.

use serde_json::json;

use super::table::{Table, clean};
use crate::plugin::{DirectoryRow, PluginRow, PluginStatus, SchemeRow};

fn status(row: &PluginRow) -> &'static str {
    match row.status {
        PluginStatus::Active => "active",
        PluginStatus::Shadowed => "shadowed",
        PluginStatus::NotSearched => "not searched",
        PluginStatus::Refused => "refused",
    }
}

fn or_dash(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(|| "-".to_owned())
}

fn schemes(row: &PluginRow) -> String {
    let one = |s: &SchemeRow| match &s.served_by {
        Some(other) if row.status == PluginStatus::Active => format!("{} (served by {other})", s.name),
        _ => s.name.clone(),
    };
    row.schemes.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn abi(row: &PluginRow) -> String {
    row.abi.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

/// The table, why some are not used, and where was looked.
pub fn plugins_text(rows: &[PluginRow], directories: &[DirectoryRow]) -> String {
    let mut text = String::new();
    if rows.is_empty() {
        text.push_str("no plugins were found\n");
    } else {
        let mut table = Table::new(&["PLUGIN", "VERSION", "SCHEMES", "ABI", "VENDOR", "STATUS", "FILE"]);
        for row in rows {
            table.row([
                or_dash(row.id.as_ref()),
                or_dash(row.version.as_ref()),
                schemes(row),
                abi(row),
                or_dash(row.vendor.as_ref()),
                status(row).to_owned(),
                row.path.clone(),
            ]);
        }
        text.push_str(&table.render());
        text.push('\n');
    }
    let reasons: Vec<String> = rows
        .iter()
        .filter_map(|row| Some(format!("{}: {}: {}", status(row), row.path, row.reason.as_ref()?)))
        .collect();
    if !reasons.is_empty() {
        text.push('\n');
    }
    for reason in reasons {
        text.push_str(&clean(&reason));
        text.push('\n');
    }
    text.push_str("\nsearched, in this order:\n");
    for directory in directories {
        let note = match (directory.status, &directory.reason) {
            (_, Some(reason)) => format!(" (refused: {reason})"),
            ("read", None) => String::new(),
            (status, None) => format!(" ({status})"),
        };
        text.push_str(&clean(&format!("  {}{note}", directory.path)));
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

pub fn plugins_json(rows: &[PluginRow], directories: &[DirectoryRow]) -> String {
    json!({ "version": 1, "plugins": rows, "directories": directories }).to_string()
}

/// Everything known about one plugin.
pub fn plugin_text(row: &PluginRow) -> String {
    let mut text = String::new();
    let ports = row.schemes.iter().filter_map(|s| Some(format!("{} {}", s.name, s.default_port?)));
    let facts = [
        ("plugin", or_dash(row.id.as_ref())),
        ("version", or_dash(row.version.as_ref())),
        ("vendor", or_dash(row.vendor.as_ref())),
        ("licence", or_dash(row.licence.as_ref())),
        ("about", row.description.clone().unwrap_or_default()),
        ("schemes", schemes(row)),
        ("default ports", ports.collect::<Vec<_>>().join(", ")),
        ("ABI", abi(row)),
        ("built for", row.triple.clone().unwrap_or_default()),
        ("file", row.path.clone()),
        ("status", status(row).to_owned()),
        ("because", row.reason.clone().unwrap_or_default()),
    ];
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!("{:<15}{}\n", format!("{name}:"), clean(value)));
    }
    if row.options.is_empty() {
        text.truncate(text.trim_end().len());
        return text;
    }
    let mut table = Table::new(&["OPTION", "TYPE", "DEFAULT", "", "DESCRIPTION"]);
    for option in &row.options {
        let marks = [("required", option.required), ("credential", option.secret)];
        let marks: Vec<&str> = marks.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
        table.row([
            option.name.clone(),
            option.kind.clone(),
            option.default.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            marks.join(", "),
            option.description.clone(),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}

pub fn plugin_json(row: &PluginRow) -> String {
    json!({ "version": 1, "plugin": row }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::dirs::Origin;
    use crate::plugin::schema;

    fn row() -> PluginRow {
        let options = json!({"required": ["region", "key"], "properties": {
            "region": {"type": "string", "default": "eu", "description": "Where\u{1b}[2J", "x-order": 1},
            "key": {"type": "string", "x-secret": true, "default": "never shown"},
        }});
        PluginRow {
            id: Some("cloud".into()),
            version: Some("1.2.3".into()),
            vendor: Some("Example Ltd".into()),
            licence: Some("MIT".into()),
            description: Some("Keeps things".into()),
            schemes: vec![
                SchemeRow { name: "cloud".into(), default_port: Some(443), served_by: None },
                SchemeRow { name: "file".into(), default_port: None, served_by: Some("folder".into()) },
            ],
            abi: vec![1],
            triple: Some("x86_64-unknown-linux-gnu".into()),
            path: "/p/cloud.so".into(),
            directory: "/p".into(),
            origin: Some(Origin::User),
            status: PluginStatus::Active,
            reason: None,
            code: None,
            options: schema::options(&options),
        }
    }

    fn refused() -> PluginRow {
        PluginRow {
            id: None,
            version: None,
            vendor: None,
            schemes: Vec::new(),
            abi: Vec::new(),
            path: "/p/x.so".into(),
            status: PluginStatus::Refused,
            reason: Some("it is empty, but a plugin is an ELF shared library: remove it".into()),
            options: Vec::new(),
            ..row()
        }
    }

    #[test]
    fn the_list_shows_what_is_used_what_is_not_and_where_was_looked() {
        let directory = |path: &str, status: &'static str, reason: Option<&str>| DirectoryRow {
            path: path.into(),
            origin: Origin::User,
            status,
            reason: reason.map(str::to_owned),
        };
        let directories = [
            directory("/p", "read", None),
            directory("/q", "absent", None),
            directory("/tmp", "refused", Some("everybody may write to the directory")),
        ];
        insta::assert_snapshot!(plugins_text(&[row(), refused()], &directories));
        let json: serde_json::Value = serde_json::from_str(&plugins_json(&[row()], &directories)).unwrap();
        assert_eq!(json["plugins"][0]["id"], "cloud");
        assert_eq!(json["plugins"][0]["options"][0]["type"], "string");
        assert_eq!(json["directories"][2]["status"], "refused");
    }

    #[test]
    fn info_shows_the_options_with_their_types_and_no_secrets_default() {
        let text = plugin_text(&row());
        assert!(!text.contains("never shown") && !text.contains('\u{1b}'), "{text}");
        insta::assert_snapshot!(text);
    }
}
