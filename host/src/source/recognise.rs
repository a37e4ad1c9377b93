//! What formats say of a settled file: by name; by header where the name says nothing, read once per change; whether
//! qemu is writing to it; and, of an image that is to be sent, whether it can be read at all.

use offsite_plugin_api::TargetPath;

use super::Cause;
use super::memory::Memory;
use super::tree::Tree;
use super::walk::Facts;
use crate::format::{self, Format, Recognised, Role, signature};

/// What is remembered of a header: the revision it was understood by, and what it said.
type Remembered = (u32, Option<Recognised>);
/// The same of a file that is recognised by its name: why its first bytes are none of its format, if so.
type RememberedHead = (u32, Option<String>);

/// `known`: a target has the file as it is now, so that nobody will read it.
///
/// Errors: why the file cannot be taken now, in words.
pub(super) fn recognise(
    tree: &dyn Tree,
    path: &TargetPath,
    facts: &Facts,
    known: bool,
    memory: &mut Memory,
) -> Result<Option<Recognised>, (Cause, String)> {
    if let Some(recognised) = format::recognise_name(path) {
        if recognised.role == Role::InProgress {
            return Err((Cause::InProgress, "its name is that of a file still being written".to_owned()));
        }
        if !known {
            // Found out before anything is planned, so that nothing is deleted in favour of what cannot be copied.
            tree.open(path).map_err(|e| cannot(&e))?;
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
    let file = tree.open(path).map_err(|e| cannot(&e))?;
    let recognised = match remembered {
        Some(recognised) => recognised,
        None => {
            let recognised = format::recognise(path, facts.size, |count| file.head(facts.size, count))
                .map_err(|e| (cause(&e), format!("its header cannot be read: {e}")))?;
            if let Ok(bytes) = postcard::to_stdvec(&(format::REVISION, &recognised)) {
                memory.set_header(path, bytes);
            }
            recognised
        }
    };
    if recognised.as_ref().is_some_and(|r| r.format == Format::Qcow2) && file.qemu_writes() {
        return Err((Cause::InUse, "qemu has it open for writing".to_owned()));
    }
    Ok(recognised)
}

/// Why a file that its name calls an image cannot be one, in words: it does not begin as its format does. Read once per
/// change, and only where such a sign is known. What cannot be read says nothing here.
pub(super) fn no_image(
    tree: &dyn Tree,
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
            let head = tree.open(path).ok()?.head(facts.size, signature::HEAD).ok()?;
            let why = signature::why_no_image(path, &recognised, facts.size, Some(&head), None);
            let why = why.map(str::to_owned);
            if let Ok(bytes) = postcard::to_stdvec(&(format::REVISION, &why)) {
                memory.set_header(path, bytes);
            }
            why
        }
    }
}

fn cannot(error: &std::io::Error) -> (Cause, String) {
    match cause(error) {
        Cause::InUse => (Cause::InUse, format!("another program has it open: {error}")),
        cause => (cause, format!("it cannot be opened: {error}")),
    }
}

/// Whether waiting may help. A share refuses to open what another program has to itself (a sharing violation) with EBUSY or
/// ETXTBSY; what was just deleted or replaced is found or missed by the next scan.
fn cause(error: &std::io::Error) -> Cause {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::ResourceBusy | Io::ExecutableFileBusy | Io::WouldBlock => Cause::InUse,
        Io::NotFound | Io::NotADirectory | Io::InvalidInput => Cause::Unsettled,
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => Cause::Unsettled,
        _ => Cause::Unreadable,
    }
}
