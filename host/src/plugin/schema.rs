//! A target's options and secrets against its plugin's schema: what is wrong, with the key, and what would be right.
//!
//! The subset of JSON Schema (2020-12) that options need: type, enum, const, minimum, maximum, minLength, maxLength,
//! pattern, items, minItems, maxItems, properties, required, additionalProperties. Other keywords are not enforced here;
//! a plugin reads its options strictly itself. One rule differs: where an object lists `properties` and does not say
//! `additionalProperties`, others are refused, because a misspelt option must not pass in silence. Values are not
//! repeated in messages when they could be secrets.

use serde::Serialize;
use serde_json::{Map, Value};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `parts[2].size`; empty for the options as a whole.
    pub key: String,
    /// Reads on after the key: `must be at least 1`.
    pub what: String,
    /// What is allowed, or where it belongs.
    pub hint: Option<String>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.key.is_empty() {
            f.write_str("the options")?
        } else {
            write!(f, "option '{}'", self.key)?
        }
        write!(f, " {}", self.what)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// One option as `plugin info` and a wizard show it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OptionRow {
    pub name: String,
    /// `string`, `integer or null`, `one of a, b`; `any` where the schema does not say.
    #[serde(rename = "type")]
    pub kind: String,
    pub default: Option<Value>,
    pub description: String,
    pub required: bool,
    /// Given under credentials, never among the options.
    pub secret: bool,
    /// When a wizard asks for it; those without come last.
    pub order: Option<i64>,
}

/// The schema's options in the order a wizard asks for them.
pub fn options(schema: &Value) -> Vec<OptionRow> {
    let mut rows: Vec<OptionRow> = properties(schema)
        .map(|(name, property)| OptionRow {
            name: name.clone(),
            kind: kind_in_words(property),
            default: property.get("default").filter(|_| !is_secret(property)).cloned(),
            description: text(property, "description").unwrap_or_default().to_owned(),
            required: required(schema).any(|r| r == name),
            secret: is_secret(property),
            order: property.get("x-order").and_then(Value::as_i64),
        })
        .collect();
    rows.sort_by_key(|row| (row.order.unwrap_or(i64::MAX), row.name.clone()));
    rows
}

/// The names of the schema's secrets.
pub fn secrets(schema: &Value) -> impl Iterator<Item = &str> {
    properties(schema).filter(|(_, p)| is_secret(p)).map(|(name, _)| name.as_str())
}

/// Everything wrong with `options` (an object, or null for none) and with the names of the secrets that come beside
/// them. Empty: all is well.
pub fn validate(schema: &Value, options: &Value, secret_names: &[&str]) -> Vec<Problem> {
    let mut found = Vec::new();
    let none = Map::new();
    let map = match options {
        Value::Null => &none,
        Value::Object(map) => map,
        _ => return vec![problem("", "must be a table of names and values", None)],
    };
    for (name, value) in map {
        match property(schema, name) {
            Some(p) if is_secret(p) => {
                let hint =
                    format!("give it as a credential: credentials = {{ {name} = {{ env = \"NAME\" }} }}");
                found.push(problem(name, "is a secret and does not belong among the options", Some(hint)));
            }
            Some(p) => check(p, value, name, 0, &mut found),
            None => unknown(schema, name, value, "", &mut found),
        }
    }
    let known = || properties(schema).filter(|(_, p)| is_secret(p)).map(|(n, _)| n.as_str());
    for name in secret_names {
        if !known().any(|k| k == *name) {
            let list = listed(known(), "this plugin takes no credentials", "its credentials are");
            found.push(problem(name, "is not a credential of this plugin", Some(list)));
        }
    }
    for name in required(schema) {
        let secret = property(schema, name).is_some_and(is_secret);
        if secret && !secret_names.contains(&name) {
            let hint = format!("credentials = {{ {name} = {{ env = \"NAME\" }} }}");
            found.push(problem(name, "is needed as a credential", Some(hint)));
        } else if !secret && !map.contains_key(name) {
            found.push(problem(name, "is needed", property(schema, name).map(kind_in_words)));
        }
    }
    found
}

fn problem(key: &str, what: impl Into<String>, hint: Option<String>) -> Problem {
    Problem { key: key.to_owned(), what: what.into(), hint }
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}

fn property<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema.get("properties")?.get(name)
}

fn required(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn text<'a>(schema: &'a Value, key: &str) -> Option<&'a str> {
    schema.get(key)?.as_str()
}

fn is_secret(property: &Value) -> bool {
    property.get("x-secret") == Some(&Value::Bool(true))
}

fn listed<'a>(names: impl Iterator<Item = &'a str>, none: &str, some: &str) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { none.to_owned() } else { format!("{some}: {}", names.join(", ")) }
}

/// A value that `properties` does not name; `at` is the path of the object it is in.
fn unknown(schema: &Value, name: &str, value: &Value, at: &str, found: &mut Vec<Problem>) {
    let key = if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    match schema.get("additionalProperties") {
        Some(Value::Bool(true)) => {}
        Some(inner @ Value::Object(_)) => check(inner, value, &key, 1, found),
        None if schema.get("properties").is_none() && !at.is_empty() => {}
        _ => {
            let plain = properties(schema).filter(|(_, p)| !is_secret(p)).map(|(n, _)| n.as_str());
            let list = listed(plain, "there are no options", "the options are");
            found.push(problem(&key, "is not an option of this plugin", Some(list)));
        }
    }
}

/// Deeper than any sensible option; the schema's own nesting is bounded by its parser.
const DEEPEST: usize = 64;

fn check(schema: &Value, value: &Value, key: &str, depth: usize, found: &mut Vec<Problem>) {
    if schema == &Value::Bool(false) || depth > DEEPEST {
        found.push(problem(key, "is not allowed here", None));
        return;
    }
    let mut fail = |what: String| found.push(problem(key, what, None));
    let types = types(schema);
    if !types.is_empty() && !types.iter().any(|t| is_a(value, t)) {
        return fail(format!("must be {}, and is {}", kind_in_words(schema), kind_of(value)));
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.iter().any(|a| equal(a, value))
    {
        fail(format!("must be {}", one_of(allowed)));
    }
    if let Some(only) = schema.get("const")
        && !equal(only, value)
    {
        fail(format!("must be {}", shown(only)));
    }
    match value {
        Value::Number(number) => {
            let given = number.as_f64().unwrap_or(f64::NAN);
            let bound = |name| schema.get(name).and_then(Value::as_f64).zip(schema.get(name));
            if let Some((least, text)) = bound("minimum")
                && (given.is_nan() || given < least)
            {
                fail(format!("must be at least {text}, and is {number}"));
            }
            if let Some((most, text)) = bound("maximum")
                && (given.is_nan() || given > most)
            {
                fail(format!("must be at most {text}, and is {number}"));
            }
        }
        Value::String(given) => {
            check_text(schema, given, &mut fail);
            // A pattern is no sentence: what the plugin says of the option is.
            let about = text(schema, "description").map(str::to_owned);
            for problem in found.iter_mut().filter(|p| p.key == key && p.what.starts_with("must match")) {
                problem.hint = about.clone();
            }
        }
        Value::Array(items) => {
            length(schema, items.len() as u64, ["minItems", "maxItems"], "items", &mut fail);
            if let Some(inner) = schema.get("items") {
                for (i, item) in items.iter().enumerate() {
                    check(inner, item, &format!("{key}[{i}]"), depth + 1, found);
                }
            }
        }
        Value::Object(map) => {
            for (name, item) in map {
                match property(schema, name) {
                    Some(inner) => check(inner, item, &format!("{key}.{name}"), depth + 1, found),
                    None => unknown(schema, name, item, key, found),
                }
            }
            for name in required(schema).filter(|n| !map.contains_key(*n)) {
                found.push(problem(&format!("{key}.{name}"), "is needed", None));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn check_text(schema: &Value, given: &str, fail: &mut impl FnMut(String)) {
    length(schema, given.chars().count() as u64, ["minLength", "maxLength"], "characters", fail);
    let Some(pattern) = text(schema, "pattern") else { return };
    match regex::RegexBuilder::new(pattern).size_limit(1 << 20).build() {
        Ok(regex) if regex.is_match(given) => {}
        Ok(_) => fail(format!("must match {pattern}")),
        Err(_) => fail(format!("cannot be checked: the plugin's pattern {pattern} is wrong")),
    }
}

fn length(schema: &Value, given: u64, names: [&str; 2], unit: &str, fail: &mut impl FnMut(String)) {
    let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
    if let Some(least) = bound(names[0]).filter(|l| given < *l) {
        fail(format!("must have at least {least} {unit}"));
    }
    if let Some(most) = bound(names[1]).filter(|m| given > *m) {
        fail(format!("must have at most {most} {unit}"));
    }
}

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        // 1.0 is an integer to JSON Schema.
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => false,
    }
}

/// Numbers by value: 1 equals 1.0.
fn equal(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && b.is_number() && a.as_f64() == b.as_f64())
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

fn kind_in_words(schema: &Value) -> String {
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
        return one_of(allowed);
    }
    let types = types(schema);
    let mut words = if types.is_empty() { "any".to_owned() } else { types.join(" or ") };
    let bound = |name| schema.get(name).filter(|v| v.is_number());
    match (bound("minimum"), bound("maximum")) {
        (Some(least), Some(most)) => words += &format!(" from {least} to {most}"),
        (Some(least), None) => words += &format!(" from {least} up"),
        (None, Some(most)) => words += &format!(" up to {most}"),
        (None, None) => {}
    }
    words
}

fn one_of(allowed: &[Value]) -> String {
    format!("one of {}", allowed.iter().map(shown).collect::<Vec<_>>().join(", "))
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({
            "type": "object",
            "required": ["region", "key"],
            "additionalProperties": false,
            "properties": {
                "region": {"type": "string", "pattern": "^[a-z0-9-]+$", "x-order": 1, "description": "Where"},
                "parts": {"type": "integer", "minimum": 1, "maximum": 10000, "default": 4},
                "mode": {"enum": ["fast", "safe"]},
                "tags": {"type": "array", "maxItems": 2, "items": {"type": "string", "minLength": 1}},
                "proxy": {"type": "object", "required": ["host"], "properties": {"host": {"type": "string"}}},
                "headers": {"type": "object", "additionalProperties": {"type": "string"}},
                "key": {"type": "string", "x-secret": true, "x-order": 2, "default": "leak"}
            }
        })
    }

    #[test]
    fn each_wrong_option_is_named_with_what_is_allowed() {
        for (options, expected) in [
            (json!({"region": "eu"}), None),
            (json!({"region": "eu", "parts": 1.0, "headers": {"a": "b"}, "proxy": {"host": "h"}}), None),
            (json!({}), Some("option 'region' is needed (string)")),
            (json!({"region": 5}), Some("option 'region' must be string, and is a number")),
            (json!({"region": "EU!"}), Some("option 'region' must match ^[a-z0-9-]+$ (Where)")),
            (
                json!({"region": "eu", "part": 4}),
                Some(
                    "option 'part' is not an option of this plugin (the options are: headers, mode, parts, proxy, \
                     region, tags)",
                ),
            ),
            (json!({"region": "eu", "parts": 0}), Some("option 'parts' must be at least 1, and is 0")),
            (
                json!({"region": "eu", "parts": 1.5}),
                Some("option 'parts' must be integer from 1 to 10000, and is a number"),
            ),
            (json!({"region": "eu", "mode": "slow"}), Some("option 'mode' must be one of fast, safe")),
            (
                json!({"region": "eu", "tags": ["a", ""]}),
                Some("option 'tags[1]' must have at least 1 characters"),
            ),
            (
                json!({"region": "eu", "tags": ["a", "b", "c"]}),
                Some("option 'tags' must have at most 2 items"),
            ),
            (json!({"region": "eu", "proxy": {}}), Some("option 'proxy.host' is needed")),
            (
                json!({"region": "eu", "proxy": {"host": "h", "prt": 1}}),
                Some("option 'proxy.prt' is not an option of this plugin (the options are: host)"),
            ),
            (
                json!({"region": "eu", "headers": {"a": 1}}),
                Some("option 'headers.a' must be string, and is a number"),
            ),
            (json!(["eu"]), Some("the options must be a table of names and values")),
        ] {
            let found: Vec<String> =
                validate(&schema(), &options, &["key"]).iter().map(Problem::to_string).collect();
            let expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(found, expected, "{options}");
        }
    }

    #[test]
    fn secrets_stay_apart_from_options() {
        let found = validate(&schema(), &json!({"region": "eu", "key": "hunter2"}), &["key"]);
        assert_eq!(found.len(), 1);
        let text = found[0].to_string();
        assert!(text.contains("does not belong among the options") && !text.contains("hunter2"), "{text}");

        let found = validate(&schema(), &json!({"region": "eu"}), &["pasword"]);
        let text: Vec<String> = found.iter().map(Problem::to_string).collect();
        assert_eq!(
            text,
            [
                "option 'pasword' is not a credential of this plugin (its credentials are: key)",
                "option 'key' is needed as a credential (credentials = { key = { env = \"NAME\" } })",
            ]
        );
    }

    #[test]
    fn options_are_listed_in_the_order_a_wizard_asks() {
        let rows = options(&schema());
        let names: Vec<&str> = rows.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["region", "key", "headers", "mode", "parts", "proxy", "tags"]);
        assert!(rows[1].secret && rows[1].required && rows[1].default.is_none());
        assert_eq!(rows[4].kind, "integer from 1 to 10000");
        assert_eq!(secrets(&schema()).collect::<Vec<_>>(), ["key"]);
    }

    #[test]
    fn a_hostile_schema_neither_panics_nor_lets_anything_pass_unseen() {
        for schema in
            [json!({}), json!({"properties": 5}), json!({"properties": {"a": false}}), json!({"required": 1})]
        {
            assert!(!validate(&schema, &json!({"a": 1}), &[]).is_empty(), "{schema}");
        }
        let schema = json!({"properties": {"a": {"pattern": "(", "type": "string"}}});
        assert!(validate(&schema, &json!({"a": "x"}), &[])[0].what.contains("pattern"));
    }
}
