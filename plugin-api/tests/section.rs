//! The metadata section as `export_backend!` writes it, and what its reader refuses.
#![allow(clippy::unwrap_used)]

use offsite_plugin_api::abi::{self, Export, META_MAX, parse_metadata_section};
use offsite_plugin_api::{Backend, Error, ErrorKind, Opened, Plugin, Result};
use serde_json::json;

struct Nothing;

impl Plugin for Nothing {
    fn open(&self, _: Opened<'_>) -> Result<Box<dyn Backend>> {
        Err(Error::unsupported("opening"))
    }
}

offsite_plugin_api::export_backend! {
    plugin: Nothing,
    metadata: {
        id: "nothing",
        vendor: "Müller \"&\" Söhne\\",
        licence: "MIT",
        description: "",
        schemes: [("nothing", None), ("no-thing", Some(65535))],
        options: r#"{"type":"object","properties":{"password":{"type":"string","x-secret":true}}}"#,
    }
}

fn framed(text: &[u8]) -> Vec<u8> {
    let mut section = abi::MAGIC.to_vec();
    section.extend((text.len() as u64).to_le_bytes());
    section.extend(text);
    section
}

fn good() -> serde_json::Value {
    let mut value: serde_json::Value =
        serde_json::from_slice(__offsite_export::Exported::metadata()).unwrap();
    value["vendor"] = "V".into();
    value
}

#[test]
fn the_macro_writes_json_with_everything_escaped() {
    let value: serde_json::Value = serde_json::from_slice(__offsite_export::Exported::metadata()).unwrap();
    assert_eq!(
        value,
        json!({
            "id": "nothing",
            "version": env!("CARGO_PKG_VERSION"),
            "vendor": "Müller \"&\" Söhne\\",
            "licence": "MIT",
            "description": "",
            "schemes": [{"name": "nothing", "default_port": null}, {"name": "no-thing", "default_port": 65535}],
            "abi": [1],
            "triple": abi::TRIPLE,
            "options": {"type": "object", "properties": {"password": {"type": "string", "x-secret": true}}},
        })
    );
    assert!(abi::TRIPLE.starts_with(std::env::consts::ARCH));
}

#[test]
fn control_characters_are_escaped_too() {
    const META: abi::StaticMeta = abi::StaticMeta {
        id: "x",
        version: "\u{1}\n",
        vendor: "",
        licence: "",
        description: "",
        schemes: &[("x", Some(10)), ("y", Some(0))],
        options: "{}",
    };
    static SECTION: [u8; abi::section_len(&META)] = abi::section(&META);
    let value: serde_json::Value = serde_json::from_slice(abi::text(&SECTION)).unwrap();
    assert_eq!(value["version"], "\u{1}\n");
    assert_eq!(value["schemes"][0]["default_port"], 10);
    assert_eq!(value["schemes"][1]["default_port"], 0);
}

#[test]
fn padding_behind_the_text_is_ignored() {
    let mut section = framed(good().to_string().as_bytes());
    section.extend([0; 7]);
    assert_eq!(parse_metadata_section(&section).unwrap().id, "nothing");
}

#[test]
fn a_damaged_section_is_corrupt() {
    let whole = framed(good().to_string().as_bytes());
    for cut in 0..whole.len() {
        let error = parse_metadata_section(&whole[..cut]).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Corrupt, "cut at {cut}: {error}");
    }
    let mut wrong_magic = whole.clone();
    wrong_magic[15] = 2;
    assert!(parse_metadata_section(&wrong_magic).is_err());
    let mut huge = whole;
    huge[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(parse_metadata_section(&huge).unwrap_err().to_string().contains("more than"));
    assert!(parse_metadata_section(&framed(&vec![b' '; META_MAX + 1])).is_err());
}

#[test]
fn metadata_that_could_mislead_is_refused() {
    for (field, value) in [
        ("id", json!("")),
        ("id", json!("../x")),
        ("id", json!("x".repeat(65))),
        ("vendor", json!("a\u{1b}[2J")),
        ("description", json!("x".repeat(2001))),
        ("schemes", json!([])),
        ("schemes", json!([{"name": "FTP"}])),
        ("schemes", json!([{"name": "a:b"}])),
        ("schemes", json!([{"name": "ftp", "default_port": 65536}])),
        ("abi", json!([])),
        ("options", json!([])),
    ] {
        let mut metadata = good();
        metadata[field] = value;
        let error = parse_metadata_section(&framed(metadata.to_string().as_bytes())).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Corrupt, "{metadata}");
    }
}

#[test]
fn the_header_loads_under_the_name_the_host_looks_up() {
    let name = abi::MODULE_SYMBOL.trim_end_matches('\0');
    assert!(include_str!("../src/export.rs").contains(&format!("export_name = \"{name}\"")));
}
