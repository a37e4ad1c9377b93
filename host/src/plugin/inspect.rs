//! What a file says about itself, read without running any of its code: is it a shared library for this machine, and
//! which plugin.
//!
//! Loading a library runs code before anything could be checked, so the metadata is in a section of the file that is
//! read here with bounds on everything. Only the headers and that section are read, so that looking at a directory
//! is cheap whatever the libraries' size.

use std::fs::File;
use std::os::unix::fs::FileExt;

use object::elf::{EM_386, EM_AARCH64, EM_ARM, EM_RISCV, EM_X86_64, ET_DYN, FileHeader64};
use object::read::ReadCache;
use object::read::elf::{FileHeader, SectionHeader};
use object::{Endianness, ReadRef};
use offsite_plugin_api::Metadata;
use offsite_plugin_api::abi::{ABI_VERSIONS, META_MAX, META_SECTION, TRIPLE, parse_metadata_section};

use super::mismatch::{Refusal, RefusalCode};

/// Largest library, bytes.
pub const LIBRARY_MAX: u64 = 512 * 1024 * 1024;

/// The metadata of the library in `file`, or why it cannot be used here.
pub fn file(file: &File) -> Result<Metadata, Refusal> {
    let size = file.metadata().map_err(|e| Refusal::unreadable("reading the file's size", e))?.len();
    check_size(size)?;
    let mut head = [0; 64];
    let read = file.read_at(&mut head, 0).map_err(|e| Refusal::unreadable("reading the file", e))?;
    check_kind(&head[..read])?;
    let cache = ReadCache::new(file);
    metadata(&cache)
}

/// The same from bytes in memory.
pub fn bytes(bytes: &[u8]) -> Result<Metadata, Refusal> {
    check_size(bytes.len() as u64)?;
    check_kind(&bytes[..bytes.len().min(64)])?;
    metadata(bytes)
}

pub(super) fn check_size(size: u64) -> Result<(), Refusal> {
    if size <= LIBRARY_MAX {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::TooLarge,
        format!("it has {size} bytes"),
        format!("a plugin has at most {LIBRARY_MAX}"),
        "remove it, or strip it with strip --strip-debug",
    ))
}

/// The file's first bytes: ELF, 64 bit, little endian (System V ABI, "ELF Identification").
fn check_kind(head: &[u8]) -> Result<(), Refusal> {
    let found = match head {
        [] => "it is empty".to_owned(),
        [0x7f, b'E', b'L', b'F', 2, 1, ..] => return Ok(()),
        [0x7f, b'E', b'L', b'F', 1, ..] => return Err(wrong_triple("a 32-bit library")),
        [0x7f, b'E', b'L', b'F', 2, 2, ..] => return Err(wrong_triple("a big-endian library")),
        [0xcf, 0xfa, 0xed, 0xfe, ..] | [0xca, 0xfe, 0xba, 0xbe, ..] => {
            return Err(wrong_triple("a macOS library"));
        }
        [b'M', b'Z', ..] => return Err(wrong_triple("a Windows library")),
        _ => format!("it starts with '{}'", head[..head.len().min(4)].escape_ascii()),
    };
    Err(not_a_library(found))
}

fn not_a_library(found: impl std::fmt::Display) -> Refusal {
    let action = "remove it, or put the plugin's own library there";
    Refusal::new(RefusalCode::NotALibrary, found, "a plugin is an ELF shared library", action)
}

fn wrong_triple(found: &str) -> Refusal {
    Refusal::new(
        RefusalCode::WrongTriple,
        format!("it is {found}"),
        format!("this program needs {TRIPLE}"),
        "install the plugin built for this machine",
    )
}

fn metadata<'data, R: ReadRef<'data>>(data: R) -> Result<Metadata, Refusal> {
    let broken = |e: object::read::Error| not_a_library(format!("its ELF headers are broken ({e})"));
    let header = FileHeader64::<Endianness>::parse(data).map_err(broken)?;
    let endian = header.endian().map_err(broken)?;
    if header.e_type(endian) != ET_DYN {
        return Err(not_a_library(format!("it is an ELF file of type {}", header.e_type(endian).0)));
    }
    let machine = header.e_machine(endian);
    if machine != (if TRIPLE.starts_with("aarch64") { EM_AARCH64 } else { EM_X86_64 }) {
        let name = match machine {
            EM_X86_64 => "x86_64".to_owned(),
            EM_AARCH64 => "aarch64".to_owned(),
            EM_386 => "i386".to_owned(),
            EM_ARM => "arm".to_owned(),
            EM_RISCV => "riscv".to_owned(),
            other => format!("machine number {}", other.0),
        };
        return Err(wrong_triple(&format!("built for {name}")));
    }
    let sections = header.sections(endian, data).map_err(broken)?;
    let Some((_, section)) = sections.section_by_name(endian, META_SECTION.as_bytes()) else {
        return Err(Refusal::new(
            RefusalCode::NoMetadata,
            "it is a library without plugin metadata",
            format!("a plugin carries it in its section {META_SECTION}"),
            "remove it, or build it with export_backend! of offsite-plugin-api",
        ));
    };
    // A megabyte of text, its head, and what a linker may pad.
    let size = section.sh_size(endian);
    if size > META_MAX as u64 + 4096 {
        return Err(bad_metadata(format!("its metadata section has {size} bytes")));
    }
    let bytes = section
        .data(endian, data)
        .map_err(|e| bad_metadata(format!("its metadata section is broken ({e})")))?;
    let metadata = parse_metadata_section(bytes).map_err(bad_metadata)?;
    usable(&metadata)?;
    Ok(metadata)
}

fn bad_metadata(found: impl std::fmt::Display) -> Refusal {
    Refusal::new(
        RefusalCode::BadMetadata,
        found,
        "a plugin's metadata must be readable before it is loaded",
        "install a version of the plugin made for this program, or ask its vendor",
    )
}

/// Whether this program can load what the metadata describes.
fn usable(metadata: &Metadata) -> Result<(), Refusal> {
    if metadata.triple != TRIPLE {
        return Err(wrong_triple(&format!("built for {}", metadata.triple)));
    }
    if !metadata.abi.iter().any(|version| ABI_VERSIONS.contains(version)) {
        let newer = metadata.abi.iter().min() > ABI_VERSIONS.iter().max();
        return Err(Refusal::new(
            RefusalCode::UnknownAbi,
            format!("plugin {} {} speaks ABI {}", metadata.id, metadata.version, versions(&metadata.abi)),
            format!("this program speaks ABI {}", versions(ABI_VERSIONS)),
            if newer {
                "update offsite, or install an older version of the plugin"
            } else {
                "update the plugin"
            },
        ));
    }
    Ok(())
}

fn versions(versions: &[u32]) -> String {
    versions.iter().map(u32::to_string).collect::<Vec<_>>().join(" and ")
}
