//! Metadata in a link section: written by `export_backend!` at compile time, read by the host from the file's bytes
//! without loading the library (loading runs code before anything can be checked).
//!
//! Section: the 16 bytes of [`MAGIC`], the length of the text as 8 bytes little endian, the text (JSON, the form of
//! [`Metadata`]).

use crate::{Error, ErrorKind, Metadata, Result};

/// The section's name in the library.
pub const META_SECTION: &str = ".offsite.meta";
/// The section starts with it; the last byte is the version of this framing.
pub const MAGIC: [u8; 16] = *b"offsite-plugin\0\x01";
/// Longest metadata text, bytes.
pub const META_MAX: usize = 1024 * 1024;
const HEAD: usize = MAGIC.len() + 8;

/// The target triple this crate, and so the plugin it is linked into, is compiled for.
pub const TRIPLE: &str = if cfg!(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")) {
    "x86_64-unknown-linux-gnu"
} else if cfg!(all(target_arch = "aarch64", target_os = "linux", target_env = "gnu")) {
    "aarch64-unknown-linux-gnu"
} else if cfg!(all(target_arch = "x86_64", target_os = "linux", target_env = "musl")) {
    "x86_64-unknown-linux-musl"
} else if cfg!(all(target_arch = "aarch64", target_os = "linux", target_env = "musl")) {
    "aarch64-unknown-linux-musl"
} else {
    "unsupported"
};

/// Reads the section's bytes. They are untrusted: bounded at [`META_MAX`], and every error is `Corrupt`.
pub fn parse_metadata_section(section: &[u8]) -> Result<Metadata> {
    let corrupt = |why: String| Error::new(ErrorKind::Corrupt, format!("the plugin's metadata {why}"));
    let Some((magic, rest)) = section.split_first_chunk::<16>() else {
        return Err(corrupt(format!("section has only {} bytes", section.len())));
    };
    if *magic != MAGIC {
        return Err(corrupt(
            "section does not start as it must; another version of offsite-plugin-api made it".into(),
        ));
    }
    let Some((length, rest)) = rest.split_first_chunk::<8>() else {
        return Err(corrupt("section ends before its length".into()));
    };
    let length = u64::from_le_bytes(*length);
    if length > META_MAX as u64 {
        return Err(corrupt(format!("has {length} bytes, more than the {META_MAX} that are allowed")));
    }
    // At most META_MAX, so the cast keeps the value. The linker may pad the section behind the text.
    let Some(text) = rest.get(..length as usize) else {
        return Err(corrupt(format!("has {} bytes where {length} were announced", rest.len())));
    };
    let metadata: Metadata = serde_json::from_slice(text)
        .map_err(|e| corrupt("cannot be read".into()).with_source(e.to_string()))?;
    metadata.validate()?;
    Ok(metadata)
}

/// Metadata as a plugin's source has it: everything a constant.
pub struct StaticMeta {
    pub id: &'static str,
    pub version: &'static str,
    pub vendor: &'static str,
    pub licence: &'static str,
    pub description: &'static str,
    pub schemes: &'static [(&'static str, Option<u16>)],
    /// JSON text.
    pub options: &'static str,
}

/// Bytes the section needs.
pub const fn section_len(meta: &StaticMeta) -> usize {
    let mut none = [0; 0];
    HEAD + write_json(meta, &mut none, 0)
}

/// The whole section. `N` is [`section_len`].
pub const fn section<const N: usize>(meta: &StaticMeta) -> [u8; N] {
    let mut out = [0; N];
    let mut at = 0;
    while at < MAGIC.len() {
        out[at] = MAGIC[at];
        at += 1;
    }
    let length = ((N - HEAD) as u64).to_le_bytes();
    while at < HEAD {
        out[at] = length[at - MAGIC.len()];
        at += 1;
    }
    write_json(meta, &mut out, HEAD);
    out
}

/// The JSON text within a section made by [`section`].
pub fn text(section: &'static [u8]) -> &'static [u8] {
    section.get(HEAD..).unwrap_or_default()
}

/// Writes the text from `start` on and returns its length; what does not fit in `out` is only counted.
const fn write_json(meta: &StaticMeta, out: &mut [u8], start: usize) -> usize {
    let mut at = start;
    at = raw(out, at, b"{\"id\":");
    at = string(out, at, meta.id);
    at = raw(out, at, b",\"version\":");
    at = string(out, at, meta.version);
    at = raw(out, at, b",\"vendor\":");
    at = string(out, at, meta.vendor);
    at = raw(out, at, b",\"licence\":");
    at = string(out, at, meta.licence);
    at = raw(out, at, b",\"description\":");
    at = string(out, at, meta.description);
    at = raw(out, at, b",\"schemes\":[");
    let mut i = 0;
    while i < meta.schemes.len() {
        at = raw(out, at, if i == 0 { b"{\"name\":" } else { b",{\"name\":" });
        at = string(out, at, meta.schemes[i].0);
        at = raw(out, at, b",\"default_port\":");
        at = match meta.schemes[i].1 {
            Some(port) => decimal(out, at, port as u64),
            None => raw(out, at, b"null"),
        };
        at = raw(out, at, b"}");
        i += 1;
    }
    at = raw(out, at, b"],\"abi\":[");
    let mut i = 0;
    while i < super::ABI_VERSIONS.len() {
        if i > 0 {
            at = raw(out, at, b",");
        }
        at = decimal(out, at, super::ABI_VERSIONS[i] as u64);
        i += 1;
    }
    at = raw(out, at, b"],\"triple\":");
    at = string(out, at, TRIPLE);
    at = raw(out, at, b",\"options\":");
    at = raw(out, at, meta.options.as_bytes());
    at = raw(out, at, b"}");
    at - start
}

const fn byte(out: &mut [u8], at: usize, value: u8) -> usize {
    if at < out.len() {
        out[at] = value;
    }
    at + 1
}

/// In one copy: a schema has many bytes, and the compiler interprets this.
const fn raw(out: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    let end = at + bytes.len();
    if end <= out.len() {
        out.split_at_mut(at).1.split_at_mut(bytes.len()).0.copy_from_slice(bytes);
    }
    end
}

const fn decimal(out: &mut [u8], mut at: usize, value: u64) -> usize {
    if value >= 10 {
        at = decimal(out, at, value / 10);
    }
    byte(out, at, b'0' + (value % 10) as u8)
}

/// RFC 8259 §7: quotation mark, reverse solidus and controls are escaped.
const fn string(out: &mut [u8], mut at: usize, text: &str) -> usize {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    at = byte(out, at, b'"');
    let mut i = 0;
    while i < bytes.len() {
        let b = bytes[i];
        if b == b'"' || b == b'\\' {
            at = byte(out, at, b'\\');
            at = byte(out, at, b);
        } else if b < 0x20 {
            at = raw(out, at, b"\\u00");
            at = byte(out, at, HEX[(b >> 4) as usize]);
            at = byte(out, at, HEX[(b & 15) as usize]);
        } else {
            at = byte(out, at, b);
        }
        i += 1;
    }
    byte(out, at, b'"')
}
