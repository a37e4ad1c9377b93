//! What formats say of a settled file: by name; by header where the name says nothing, read once per change; whether
//! qemu is writing to it; and, of an image that is to be sent, whether it can be read at all.

use offsite_plugin_api::TargetPath;

use super::Cause;
use super::memory::{Memory, Opened};
use super::tree::{Peek, Tree};
use super::walk::Facts;
use crate::format::{self, Format, Recognised, Role, signature};

/// What is remembered of a header: the revision it was understood by, and what it said.
type Remembered = (u32, Option<Recognised>);
/// The same of a file that is recognised by its name, and whose first bytes are none of its format: why. Empty where there
/// is nothing to be said.
type RememberedHead = (u32, Option<String>);

/// What a file is; beside it, why a file that its name calls an image cannot be one.
type Known = (Option<Recognised>, Option<String>);

/// `known`: a target has it like this, so that nobody will read it.
///
/// Errors: why the file cannot be taken now, in words.
pub(super) fn recognise(
    tree: &dyn Tree,
    path: &TargetPath,
    facts: &Facts,
    opened: Opened,
    known: &dyn Fn() -> bool,
    memory: &mut Memory,
) -> Result<Known, (Cause, String)> {
    if let Some(recognised) = format::recognise_name(path) {
        if recognised.role == Role::InProgress {
            return Err((Cause::InProgress, "its name is that of a file still being written".to_owned()));
        }
        let told = || postcard::from_bytes::<RememberedHead>(memory.header(path)?).ok();
        let remembered = match opened {
            Opened::Never => None,
            Opened::Plain => Some(None),
            Opened::Told => told().filter(|(revision, _)| *revision == format::REVISION).map(|(_, why)| why),
        };
        let bad = match remembered {
            Some(why) => why.filter(|_| !known()),
            None if known() => {
                memory.set_header(path, Vec::new());
                None
            }
            // Found out before anything is planned, so that nothing is deleted in favour of what cannot be copied; once
            // per change, as a header is read.
            None => {
                let file = tree.open(path).map_err(|e| cannot(&e))?;
                let why = no_image(&*file, path, &recognised, facts)?;
                let header =
                    why.as_ref().and_then(|why| postcard::to_stdvec(&(format::REVISION, Some(why))).ok());
                memory.set_header(path, header.unwrap_or_default());
                why
            }
        };
        return Ok((Some(recognised), bad));
    }
    if !format::wants_header(path) {
        return Ok((None, None));
    }
    let remembered = memory
        .header(path)
        .and_then(|bytes| postcard::from_bytes::<Remembered>(bytes).ok())
        .filter(|(revision, _)| *revision == format::REVISION)
        .map(|(_, recognised)| recognised);
    if let Some(None) = remembered {
        return Ok((None, None));
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
    Ok((recognised, None))
}

/// Why a file that its name calls an image cannot be one, in words: it does not begin as its format does. Read only where
/// such a sign is known. Errors: it cannot be read.
fn no_image(
    file: &dyn Peek,
    path: &TargetPath,
    recognised: &Recognised,
    facts: &Facts,
) -> Result<Option<String>, (Cause, String)> {
    // Some bytes that no signature begins with tell whether one is known at all.
    if facts.size == 0 || signature::fits(path, recognised, &[0; signature::HEAD]).is_none() {
        return Ok(None);
    }
    let head = file
        .head(facts.size, signature::HEAD)
        .map_err(|e| (cause(&e), format!("its first bytes cannot be read: {e}")))?;
    let why = signature::why_no_image(path, recognised, facts.size, Some(&head), None);
    Ok(why.map(str::to_owned))
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
