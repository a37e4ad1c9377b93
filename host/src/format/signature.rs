//! Known first bytes: whether a file can be what its name says.
//!
//! A closed format shows nothing of its chain, but some begin with bytes that are published. Where none are, `None` is
//! the answer: then only the first bytes recorded at the last publish can say whether a changed file is still its
//! format's. A signature that is wrong here would refuse good images, so only those with a source are listed.

use offsite_plugin_api::TargetPath;

use super::name::Name;
use super::{Recognised, Role};

/// Bytes that are recorded of every published file, and that every signature here lies within.
pub const HEAD: usize = 16;

/// zstd: a frame (RFC 8878 §3.1.1), or a skippable one before it (§3.1.2), whose first byte is 50 to 5F.
const ZSTD: &[u8] = &[0x28, 0xB5, 0x2F, 0xFD];
const ZSTD_SKIPPABLE: &[u8] = &[0x2A, 0x4D, 0x18];
/// RFC 1952 §2.3.1.
const GZIP: &[u8] = &[0x1F, 0x8B];
/// bzip2's manual: "BZh", then the block size.
const BZIP2: &[u8] = b"BZh";
/// lzop's `lzop_magic`.
const LZOP: &[u8] = &[0x89, b'L', b'Z', b'O', 0x00, 0x0D, 0x0A, 0x1A, 0x0A];
/// pve-qemu, `vma_spec.txt`: the header's magic.
const VMA: &[u8] = b"VMA\0";
/// virtnbdbackup's stream: its first frame is metadata.
const VIRTNBD: &[u8] = b"meta ";
/// QEMU, `docs/interop/qcow2.txt`.
const QCOW2: &[u8] = b"QFI\xfb";
/// MS-VHDX 2.2.1; the VHD specification's copy of the footer, of dynamic disks; the VMDK specification's sparse extent.
const VHDX: &[u8] = b"vhdxfile";
const VHD: &[u8] = b"conectix";
const VMDK: &[u8] = b"KDMV";

/// Whether a file's first bytes ([`HEAD`] of them, fewer only where it is shorter) are those of its format. `None`: no
/// signature of it is known, or it is a file whose first bytes its format leaves open.
pub fn fits(path: &TargetPath, recognised: &Recognised, head: &[u8]) -> Option<bool> {
    if !carries(&recognised.role) {
        return None;
    }
    if head.is_empty() {
        return Some(false);
    }
    let name = Name::of(path);
    // A further part goes on in the middle, and what is no base of its own name's kind is not looked at.
    if matches!(recognised.role, Role::Part(_)) {
        return None;
    }
    let extension = name.extension().to_ascii_lowercase();
    let begins = |magic: &[u8]| Some(head.starts_with(magic));
    match (recognised.format, extension.as_slice()) {
        (super::Format::Qcow2, b"qcow2") => begins(QCOW2),
        (super::Format::Vzdump, b"zst") => {
            let skippable = head.first().is_some_and(|b| (0x50..=0x5F).contains(b))
                && head.get(1..4) == Some(ZSTD_SKIPPABLE);
            Some(skippable || head.starts_with(ZSTD))
        }
        (super::Format::Vzdump, b"gz" | b"tgz") => begins(GZIP),
        (super::Format::Vzdump, b"bz2") => begins(BZIP2),
        (super::Format::Vzdump, b"lzo") => begins(LZOP),
        (super::Format::Vzdump, b"vma") => begins(VMA),
        (super::Format::Virtnbdbackup, b"data") => begins(VIRTNBD),
        (_, b"vhdx") => begins(VHDX),
        (_, b"vhd") => begins(VHD),
        (_, b"vmdk") => begins(VMDK),
        _ => None,
    }
}

/// Whether a role's file holds an image's content: without it, or without a byte in it, there is no image.
pub fn carries(role: &Role) -> bool {
    matches!(role, Role::Anchor | Role::Part(_) | Role::Running(_))
}

/// Why a file of that size, with those first bytes, is no image; in words. `head`: `None` where they are not known.
/// `recorded`: those of its last publish.
pub fn why_no_image(
    path: &TargetPath,
    recognised: &Recognised,
    size: u64,
    head: Option<&[u8]>,
    recorded: Option<&[u8; HEAD]>,
) -> Option<&'static str> {
    if !carries(&recognised.role) {
        return None;
    }
    if size == 0 {
        return Some(EMPTY);
    }
    let head = head?;
    match fits(path, recognised, head) {
        Some(true) => None,
        Some(false) => Some("it does not begin as its format does"),
        None => recorded.filter(|recorded| head != recorded.as_slice()).map(|_| {
            "it does not begin as it did when it was published, and its format has no other sign to know it by"
        }),
    }
}

/// Of a file without content.
pub const EMPTY: &str = "it is empty";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::recognise_name;

    fn path(text: &str) -> TargetPath {
        TargetPath::new(text).unwrap()
    }

    #[test]
    fn first_bytes_are_judged_where_the_format_fixes_them() {
        let vzdump = "vzdump-qemu-100-2024_01_02-03_04_05";
        let cases: [(String, &[u8], Option<bool>); 14] = [
            (format!("{vzdump}.vma.zst"), &[0x28, 0xB5, 0x2F, 0xFD, 4], Some(true)),
            (format!("{vzdump}.vma.zst"), &[0x55, 0x2A, 0x4D, 0x18, 4], Some(true)),
            (format!("{vzdump}.vma.zst"), &[0, 0, 0, 0, 0], Some(false)),
            (format!("{vzdump}.vma.zst"), &[], Some(false)),
            (format!("{vzdump}.vma.zst.notes"), &[], None),
            (format!("{vzdump}.vma.gz"), &[0x1F, 0x8B, 8], Some(true)),
            (format!("{vzdump}.tgz"), b"garbage", Some(false)),
            (format!("{vzdump}.vma.lzo"), LZOP, Some(true)),
            (format!("{vzdump}.tar.bz2"), b"BZh9", Some(true)),
            (format!("{vzdump}.vma"), b"VMA\0\0\0", Some(true)),
            (format!("{vzdump}.tar"), b"etc/", None),
            ("vda.full.data".into(), b"meta 00", Some(true)),
            ("vda.full.data".into(), b"mete 00", Some(false)),
            ("vol-b001-i002.spi".into(), b"anything", None),
        ];
        for (name, head, expected) in cases {
            let recognised = recognise_name(&path(&name)).unwrap();
            assert_eq!(fits(&path(&name), &recognised, head), expected, "{name} {head:?}");
        }
    }

    #[test]
    fn an_empty_or_foreign_file_is_no_image_and_a_side_car_may_be_empty() {
        let why = |name: &str, size, head: Option<&[u8]>, recorded: Option<&[u8; 16]>| {
            why_no_image(&path(name), &recognise_name(&path(name)).unwrap(), size, head, recorded)
        };
        let zst = "vzdump-qemu-100-2024_01_02-03_04_05.vma.zst";
        assert!(why(zst, 0, None, None).is_some());
        assert!(why(zst, 9, Some(&[0; 9]), None).is_some());
        assert!(why(zst, 9, None, None).is_none(), "not looked at");
        assert!(why(&format!("{zst}.log"), 0, None, None).is_none());
        let spi = "vol-b001-i002.spi";
        assert!(why(spi, 20, Some(&[1; 16]), None).is_none(), "nothing is known of it");
        assert!(why(spi, 20, Some(&[1; 16]), Some(&[1; 16])).is_none());
        assert!(why(spi, 20, Some(&[1; 16]), Some(&[2; 16])).is_some());
        assert!(why(spi, 3, Some(&[2; 3]), Some(&[2; 16])).is_some(), "shorter than what is known of it");
    }
}
