//! What formats say of a settled file: by name; by header where the name says nothing, read once per change; and
//! whether qemu is writing to it.

use std::os::fd::OwnedFd;

use offsite_plugin_api::TargetPath;

use super::memory::Memory;
use super::walk::Facts;
use super::{lock, open_file};
use crate::format::{self, Format, Recognised, Role, signature};

/// What is remembered of a header: the revision it was understood by, and what it said.
type Remembered = (u32, Option<Recognised>);
/// The same of a file that is recognised by its name: why its first bytes are none of its format, if so.
type RememberedHead = (u32, Option<String>);

/// Errors: why the file cannot be taken now, in words.
pub(super) fn recognise(
    root: &OwnedFd,
    path: &TargetPath,
    facts: &Facts,
    memory: &mut Memory,
) -> Result<Option<Recognised>, String> {
    if let Some(recognised) = format::recognise_name(path) {
        if recognised.role == Role::InProgress {
            return Err("its name is that of a file still being written".to_owned());
        }
        return Ok(Some(recognised));
    }
    if !format::wants_header(path) {
        return Ok(None);
    }
    let remembered = memory
        .header(path)
        .and_then(|bytes| postcard::from_bytes::<Remembered>(bytes).ok())
        .filter(|(revision, _)| *revision == format::REVISION)
        .map(|(_, recognised)| recognised);
    if let Some(None) = remembered {
        return Ok(None);
    }
    let file = open_file(root, path).map_err(|e| e.source.unwrap_or(e.what))?;
    let recognised = match remembered {
        Some(recognised) => recognised,
        None => {
            let recognised = format::recognise(path, facts.size, |count| read(&file, facts.size, count))
                .map_err(|e| format!("its header cannot be read: {e}"))?;
            if let Ok(bytes) = postcard::to_stdvec(&(format::REVISION, &recognised)) {
                memory.set_header(path, bytes);
            }
            recognised
        }
    };
    if recognised.as_ref().is_some_and(|r| r.format == Format::Qcow2) && lock::qemu_writes(&file) {
        return Err("qemu has it open for writing".to_owned());
    }
    Ok(recognised)
}

/// Why a file that its name calls an image cannot be one, in words: it does not begin as its format does. Read once per
/// change, and only where such a sign is known. What cannot be read says nothing here.
pub(super) fn no_image(
    root: &OwnedFd,
    path: &TargetPath,
    facts: &Facts,
    memory: &mut Memory,
) -> Option<String> {
    let recognised = format::recognise_name(path)?;
    // Some bytes that no signature begins with tell whether one is known at all.
    if facts.size == 0 || signature::fits(path, &recognised, &[0; signature::HEAD]).is_none() {
        return None;
    }
    let remembered = memory.header(path).and_then(|bytes| postcard::from_bytes::<RememberedHead>(bytes).ok());
    match remembered.filter(|(revision, _)| *revision == format::REVISION) {
        Some((_, why)) => why,
        None => {
            let file = open_file(root, path).ok()?;
            let head = read(&file, facts.size, signature::HEAD).ok()?;
            let why = signature::why_no_image(path, &recognised, facts.size, Some(&head), None);
            let why = why.map(str::to_owned);
            if let Ok(bytes) = postcard::to_stdvec(&(format::REVISION, &why)) {
                memory.set_header(path, bytes);
            }
            why
        }
    }
}

/// The file's first bytes; fewer than asked for only at its end.
fn read(file: &std::fs::File, size: u64, count: usize) -> std::io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut head = vec![0; count.min(usize::try_from(size).unwrap_or(count))];
    let mut filled = 0;
    while filled < head.len() {
        match file.read_at(&mut head[filled..], filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    head.truncate(filled);
    Ok(head)
}
