//! What formats say of a settled file: by name; by header where the name says nothing, read once per change; and
//! whether qemu is writing to it.

use offsite_plugin_api::TargetPath;

use super::memory::Memory;
use super::tree::Tree;
use super::walk::Facts;
use crate::format::{self, Format, Recognised, Role};

/// What is remembered of a header: the revision it was understood by, and what it said.
type Remembered = (u32, Option<Recognised>);

/// Errors: why the file cannot be taken now, in words.
pub(super) fn recognise(
    tree: &dyn Tree,
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
    let file = tree.open(path)?;
    let recognised = match remembered {
        Some(recognised) => recognised,
        None => {
            let recognised = format::recognise(path, facts.size, |count| file.head(facts.size, count))
                .map_err(|e| format!("its header cannot be read: {e}"))?;
            if let Ok(bytes) = postcard::to_stdvec(&(format::REVISION, &recognised)) {
                memory.set_header(path, bytes);
            }
            recognised
        }
    };
    if recognised.as_ref().is_some_and(|r| r.format == Format::Qcow2) && file.qemu_writes() {
        return Err("qemu has it open for writing".to_owned());
    }
    Ok(recognised)
}
