//! qcow2, by its header alone: libvirt gives overlays any name. Gives the backing file's name, the external data file,
//! and the bits that say the image is damaged or was not closed.
//!
//! Layout from QEMU's `docs/interop/qcow2.txt`, big endian: @0 "QFI\xfb", @4 version, @8 u64 backing name's offset, @16
//! u32 its length (at most 1023), @20 cluster bits, @24 u64 virtual size; version 3: @72 u64 incompatible features,
//! @100 u32 header length; extensions (u32 type, u32 length, padded to 8) follow the header. Names in it are untrusted:
//! they are only ever compared with the listing, and anything but a plain relative name is outside.

use offsite_plugin_api::TargetPath;

use super::name::{Name, text};
use super::{Format, Header, ImageKind, Link, Recognised, Role};

const MAGIC: &[u8] = b"QFI\xfb";
const LONGEST_NAME: usize = 1023;
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const BACKING_FORMAT: u32 = 0xE279_2ACA;
const DATA_FILE: u32 = 0x4441_5441;

/// The header's fields; offsets are into the bytes they were read from.
struct Fields {
    version: u32,
    backing: Option<(usize, usize)>,
    cluster: usize,
    features: u64,
    length: usize,
}

/// `size` is the whole file's, `head` its first bytes.
/// Errors: it is a qcow2, but its header cannot be true; in words.
pub(super) fn recognise(path: &TargetPath, size: u64, head: &[u8]) -> Result<Header, String> {
    if !head.starts_with(MAGIC) {
        return Ok(if head.len() < 4 && size >= 4 { Header::More(104) } else { Header::Unknown });
    }
    if head.len() < 104 && (head.len() as u64) < size {
        return Ok(Header::More(104));
    }
    let fields = fields(size, head)?;
    // Name and extensions must lie in the first cluster.
    let needed = usize::try_from(size).unwrap_or(usize::MAX).min(fields.cluster);
    if head.len() < needed {
        return Ok(Header::More(needed));
    }
    let first = &head[..needed];
    let backing = match fields.backing {
        None => None,
        Some((offset, length)) => Some(
            offset
                .checked_add(length)
                .and_then(|end| first.get(offset..end))
                .ok_or("its backing file's name lies outside the first cluster")?,
        ),
    };
    let extensions = extensions(first, &fields)?;
    let mut notes = Vec::new();
    if fields.features & CORRUPT != 0 {
        notes.push("its header is marked corrupt: run qemu-img check -r".to_owned());
    }
    if fields.features & DIRTY != 0 {
        notes.push("its header is marked dirty: it is in use or was not closed cleanly".to_owned());
    }
    let name = Name::of(path);
    let mut parts = Vec::new();
    let mut link = match backing {
        None | Some(b"") => Link::None,
        Some(backing) => resolve(&name, backing, "its backing file").map_or_else(Link::Outside, Link::File),
    };
    if fields.features & EXTERNAL_DATA != 0 {
        match extensions.data_file.map(|data| resolve(&name, data, "its external data file")) {
            Some(Ok(data)) => parts.push(data),
            Some(Err(why)) => link = Link::Outside(why),
            None => {
                link =
                    Link::Outside("its content is in an external data file that it does not name".to_owned())
            }
        }
    }
    if let Some(format) = extensions.backing_format.filter(|f| !matches!(*f, b"qcow2" | b"raw")) {
        notes.push(format!(
            "its backing file's format is '{}'",
            format[..format.len().min(32)].escape_ascii()
        ));
    }
    Ok(Header::Known(Recognised {
        format: Format::Qcow2,
        set: text(path.as_bytes()),
        image: text(name.file),
        kind: if matches!(link, Link::None) { ImageKind::Base } else { ImageKind::Incremental },
        role: Role::Anchor,
        link,
        parts,
        note: (!notes.is_empty()).then(|| notes.join("; ")),
    }))
}

/// What an image whose header cannot be true is: an image that nothing can restore.
pub(super) fn damaged(path: &TargetPath, why: String) -> Recognised {
    Recognised {
        format: Format::Qcow2,
        set: text(path.as_bytes()),
        image: text(Name::of(path).file),
        kind: ImageKind::Incremental,
        role: Role::Anchor,
        link: Link::Outside(format!("its qcow2 header is damaged: {why}")),
        parts: Vec::new(),
        note: None,
    }
}

fn fields(size: u64, head: &[u8]) -> Result<Fields, String> {
    let version = be32(head, 4)?;
    let cluster_bits = be32(head, 20)?;
    be64(head, 24)?;
    if !matches!(version, 2 | 3) {
        return Err(format!("its version is {version}; 2 and 3 are known"));
    }
    if !(9..=21).contains(&cluster_bits) {
        return Err(format!("its clusters are 2^{cluster_bits} bytes; 2^9 to 2^21 are allowed"));
    }
    let (features, length) =
        if version == 2 { (0, 72) } else { (be64(head, 72)?, be32(head, 100)? as usize) };
    let cluster = 1usize << cluster_bits;
    if (version == 3 && length < 104) || length > cluster {
        return Err(format!("its header is {length} bytes long"));
    }
    if size < length as u64 {
        return Err("it ends within its header".to_owned());
    }
    let (offset, name) = (be64(head, 8)?, be32(head, 16)? as usize);
    let backing = match offset {
        0 => None,
        _ if name > LONGEST_NAME => {
            return Err(format!("its backing file's name has {name} bytes; {LONGEST_NAME} are allowed"));
        }
        _ => Some((usize::try_from(offset).map_err(|_| "its backing file's name lies nowhere")?, name)),
    };
    Ok(Fields { version, backing, cluster, features, length })
}

#[derive(Default)]
struct Extensions<'a> {
    backing_format: Option<&'a [u8]>,
    data_file: Option<&'a [u8]>,
}

fn extensions<'a>(first: &'a [u8], fields: &Fields) -> Result<Extensions<'a>, String> {
    let mut found = Extensions::default();
    let mut at = fields.length;
    // They end before the backing file's name, which QEMU places right behind them.
    let end = fields.backing.map_or(first.len(), |(offset, _)| offset.min(first.len()));
    while at + 8 <= end {
        let (kind, length) = (be32(first, at)?, be32(first, at + 4)? as usize);
        if kind == 0 {
            break;
        }
        let data = (at + 8)
            .checked_add(length)
            .filter(|&data_end| data_end <= end)
            .map(|data_end| &first[at + 8..data_end]);
        let Some(data) = data else {
            // Version 2 files of old writers may hold anything here, as no extension is promised.
            return if fields.version == 2 {
                Ok(found)
            } else {
                Err("a header extension has no end".to_owned())
            };
        };
        match kind {
            BACKING_FORMAT => found.backing_format = Some(data),
            DATA_FILE => found.data_file = Some(data),
            _ => {}
        }
        at = (at + 8 + length).next_multiple_of(8);
    }
    Ok(found)
}

/// The path a name in the header means, seen from the image's directory.
fn resolve(name: &Name<'_>, raw: &[u8], what: &str) -> Result<TargetPath, String> {
    let shown: String = raw[..raw.len().min(200)].escape_ascii().to_string();
    let outside = |why: &str| Err(format!("{what} is '{shown}', {why}"));
    if raw.is_empty() {
        return outside("an empty name");
    }
    let first = raw.split(|&b| b == b'/').next().unwrap_or_default();
    // QEMU takes anything before a ':' in the first component for a protocol.
    if first.contains(&b':') {
        return outside("which is a protocol or an option string, not a file of this source");
    }
    if raw.starts_with(b"/") {
        return outside("an absolute path: rebase the image to a relative name (qemu-img rebase -u)");
    }
    if raw.split(|&b| b == b'/').any(|component| component == b"..") {
        return outside("which leaves the image's directory");
    }
    let mut path = name.dir.to_vec();
    for component in raw.split(|&b| b == b'/').filter(|c| !matches!(*c, b"" | b".")) {
        if !path.is_empty() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    match TargetPath::new(path) {
        Ok(path) if !path.is_root() => Ok(path),
        _ => outside("which is no usable path"),
    }
}

fn be32(bytes: &[u8], at: usize) -> Result<u32, String> {
    let field = bytes.get(at..).and_then(|b| b.first_chunk::<4>());
    field.map(|b| u32::from_be_bytes(*b)).ok_or_else(|| "it ends within its header".to_owned())
}

fn be64(bytes: &[u8], at: usize) -> Result<u64, String> {
    let field = bytes.get(at..).and_then(|b| b.first_chunk::<8>());
    field.map(|b| u64::from_be_bytes(*b)).ok_or_else(|| "it ends within its header".to_owned())
}
