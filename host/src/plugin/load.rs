//! A plugin's file becomes a running module: the bytes are copied to sealed memory, checked there, and that memory is
//! what the system's loader opens.
//!
//! Between a check by path and a load by path another file could take the name; so could other bytes take the place of
//! those inspected, in the same file. Neither can happen to a sealed memfd. One memfd per library, open for the life
//! of the process: the loader recognises libraries by path and by device and inode, and a reused descriptor number
//! would give the first library in place of the second. Libraries are never unloaded: their threads, their hooks and
//! what they returned live in them.

// A library's symbol is untyped, and loading a library runs its code.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::path::Path;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use offsite_plugin_api::Metadata;
use offsite_plugin_api::abi::host::{LoadError, Module};
use offsite_plugin_api::abi::{AbiHeaderRef, MODULE_SYMBOL};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::inspect::{self, LIBRARY_MAX};
use super::mismatch::{Refusal, RefusalCode};

/// Loads the library in `file`, whose metadata was `inspected` earlier. `path` is for messages.
pub(super) fn load(file: &File, inspected: &Metadata, path: &Path) -> Result<Module, Refusal> {
    let sealed = seal(file, path)?;
    let metadata = inspect::file(&sealed)?;
    if metadata != *inspected {
        return Err(Refusal::new(
            RefusalCode::Changed,
            "the file changed after it was inspected",
            "what was inspected is what must be loaded",
            "run the command again",
        ));
    }
    let module = open(ManuallyDrop::new(sealed))?;
    let spoken = module.metadata().map_err(|e| Refusal::sentence(RefusalCode::BadMetadata, e))?;
    if spoken != metadata {
        return Err(Refusal::new(
            RefusalCode::BadMetadata,
            "its code reports other metadata than its file",
            "the two must be the same",
            "report this to the plugin's vendor",
        ));
    }
    Ok(module)
}

/// A private copy that nobody, this process included, can change any more.
fn seal(file: &File, path: &Path) -> Result<File, Refusal> {
    let failed = |e: std::io::Error| Refusal::unreadable("copying the library to memory", e);
    let name = path.file_name().unwrap_or_default();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Systems may make memfds non-executable by default (vm.memfd_noexec); kernels before 6.3 do not know the flag.
    let descriptor = memfd_create(name, flags | MemfdFlags::EXEC)
        .or_else(|_| memfd_create(name, flags))
        .map_err(|e| failed(e.into()))?;
    let mut sealed = File::from(descriptor);
    let mut source = file;
    source.seek(SeekFrom::Start(0)).map_err(failed)?;
    let copied = std::io::copy(&mut source.take(LIBRARY_MAX + 1), &mut sealed).map_err(failed)?;
    inspect::check_size(copied)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&sealed, seals).map_err(|e| failed(e.into()))?;
    Ok(sealed)
}

/// Opens the sealed copy, which stays open for ever (its caller cannot drop it).
fn open(sealed: ManuallyDrop<File>) -> Result<Module, Refusal> {
    let path = format!("/proc/self/fd/{}", sealed.as_raw_fd());
    // SAFETY: this runs the library's initialisers, with this process's rights. That is what a plugin is: the file's
    // owner and mode were judged, its metadata says that it is a plugin for this program, and its bytes are sealed.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
    let library = ManuallyDrop::new(library.map_err(|error| {
        let text = cause(&error).replace(&path, "the library");
        Refusal::new(
            RefusalCode::CannotLoad,
            format!("the system cannot load it ({text})"),
            "it needs every library and symbol that it names",
            "install what is missing (ldd FILE lists it), or a build of the plugin for this system",
        )
    })?);
    // SAFETY: a symbol of this name is, by abi_stable's convention, a static header; the reference to it is copied out
    // and stays valid because the library is never unloaded. The header's own magic and version are checked by
    // `from_header` before anything else in it is touched.
    let header = unsafe { library.get::<AbiHeaderRef>(MODULE_SYMBOL.as_bytes()) }.map(|symbol| *symbol);
    let header = header.map_err(|_| {
        Refusal::new(
            RefusalCode::NoModule,
            "it has plugin metadata and exports no module",
            "a plugin exports one",
            "rebuild it with export_backend!, as a cdylib, without stripping its dynamic symbols",
        )
    })?;
    Module::from_header(header).map_err(|error: LoadError| {
        let details = error.details().map(str::to_owned);
        Refusal::sentence(RefusalCode::BadModule, error).details(details)
    })
}

/// libloading's own text says only that `dlopen` failed; the loader's is its source.
fn cause(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
