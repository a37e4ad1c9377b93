//! Shared libraries made with the C compiler: plugins in their metadata, and whatever a test wants in their code.

use std::path::{Path, PathBuf};
use std::process::Command;

use offsite_plugin_api::abi::{MAGIC, TRIPLE};
use serde_json::{Value, json};

/// Metadata of a plugin that this program could load, with one scheme named like its id.
pub fn metadata(id: &str) -> Value {
    json!({
        "id": id, "version": "1.2.3", "vendor": "Tests", "licence": "MIT", "description": "made by cc",
        "schemes": [{"name": id, "default_port": null}], "abi": [1], "triple": TRIPLE,
        "options": {"type": "object", "properties": {}},
    })
}

/// The bytes of a metadata section around any text.
pub fn section(text: &[u8]) -> Vec<u8> {
    [&MAGIC[..], &(text.len() as u64).to_le_bytes(), text].concat()
}

/// Makes `directory/file` from C code, with these bytes as its metadata section. Returns its path.
#[track_caller]
pub fn library(directory: &Path, file: &str, section: Option<&[u8]>, code: &str) -> PathBuf {
    let work = tempfile::tempdir().expect("a temporary folder");
    let mut text = format!("{code}\n");
    if let Some(section) = section {
        let raw = work.path().join("section");
        std::fs::write(&raw, section).expect("the temporary folder is writable");
        text += &format!(
            "__asm__(\".section .offsite.meta,\\\"a\\\"\\n.incbin \\\"{}\\\"\\n.previous\");\n",
            raw.display()
        );
    }
    let source = work.path().join("library.c");
    std::fs::write(&source, text).expect("the temporary folder is writable");
    let made = directory.join(file);
    let output = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&made).arg(&source).output();
    let output = output.expect("the C compiler is installed");
    assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    made
}
