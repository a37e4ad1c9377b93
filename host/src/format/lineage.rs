//! Which sets follow one another: the sets of one host and disk, of which retention removes the old when a new one is
//! there. Told from paths alone.
//!
//! A mistake here would let the end of one host pass for the rotation of another, so the folder always belongs to the
//! key, and whatever a name does not say clearly keeps sets apart.

use offsite_plugin_api::TargetPath;

use super::name::{Name, text};
use super::{Format, acronis, activeimage, macrium, shadowprotect, veeam, virtnbdbackup, vzdump};

/// Where a set belongs. The keys are opaque.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// Host and disk where the name has them, else the folder: what must not lose its last restorable image unasked.
    pub own: String,
    /// Where a set that takes this one's place may be: as `own`; but where each set is a folder, the folders beside it, and
    /// where the files' names are the set's own, those whose names differ only in date, time, long numbers or long
    /// hexadecimal words (a folder's also in the number of a `set`): `web1` and `web2` are two hosts.
    pub family: String,
    /// The set's place among those of its family; `None` where only time tells.
    pub place: Option<[u64; 2]>,
}

/// What a format's name says of this.
pub(super) enum Says<'a> {
    /// Host and disk, volume, VM or job, and the set's place.
    Host(Vec<u8>, Option<[u64; 2]>),
    /// Only what this one set is called.
    Set(&'a [u8]),
    /// The folder is the set.
    Folder,
}

/// The lineage of the set that has this image (the anchor's path at the source).
pub fn lineage(format: Format, image: &TargetPath) -> Lineage {
    let name = Name::of(image);
    let says = match format {
        Format::ActiveImage => activeimage::says(&name),
        Format::ShadowProtect => shadowprotect::says(&name),
        Format::Macrium => macrium::says(&name),
        Format::Acronis => acronis::says(&name),
        Format::Veeam => veeam::says(&name),
        Format::Vzdump => vzdump::says(&name),
        Format::Virtnbdbackup => virtnbdbackup::says(),
        Format::Qcow2 => Some(Says::Set(name.stem())),
    };
    let front = format!("{format:?}:{}", text(name.dir));
    match says.unwrap_or(Says::Set(name.stem())) {
        Says::Host(host, place) => {
            let own = format!("{front}:{}", text(&host));
            Lineage { family: own.clone(), own, place }
        }
        Says::Set(set) => Lineage { family: format!("{front}:{}", dateless(set)), own: front, place: None },
        Says::Folder => {
            let family = format!("{format:?}:{}", beside(name.dir));
            Lineage { family, own: front, place: None }
        }
    }
}

/// What a folder is called that is a set, and whose number therefore counts sets.
const SETS: [&str; 5] = ["set", "gen", "generation", "chain", "full"];

/// The folder's parent, and the folder's name without what counts sets: `web1` and `web2` are two hosts', `101` and `102`
/// two virtual machines'.
fn beside(dir: &[u8]) -> String {
    let dir = dir.strip_suffix(b"/").unwrap_or(dir);
    let cut = dir.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
    let name = &dir[cut..];
    let letters: Vec<u8> = name
        .iter()
        .filter(|b| !b.is_ascii_digit() && !b"-_. ".contains(b))
        .map(u8::to_ascii_lowercase)
        .collect();
    let counted = SETS.iter().any(|set| set.as_bytes() == letters);
    format!("{}{}", text(&dir[..cut]), if counted { numberless(name) } else { dateless(name) })
}

/// A name with `#` for each run of digits, and for long hexadecimal words, which products count with, too.
fn numberless(name: &[u8]) -> String {
    let mut out = Vec::with_capacity(name.len());
    for word in name.chunk_by(|a, b| a.is_ascii_alphanumeric() == b.is_ascii_alphanumeric()) {
        if word.len() >= 16 && word.iter().all(u8::is_ascii_hexdigit) {
            out.push(b'#');
            continue;
        }
        for run in word.chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit()) {
            if run[0].is_ascii_digit() { out.push(b'#') } else { out.extend_from_slice(run) }
        }
    }
    text(&out)
}

/// The same of dates, times and long counters alone. A short number tells hosts apart as often as sets, so it goes only
/// where a long one stands before it and no letter beside it, as the month after the year.
fn dateless(name: &[u8]) -> String {
    let mut out = Vec::with_capacity(name.len());
    let mut dated = false;
    for word in name.chunk_by(|a, b| a.is_ascii_alphanumeric() == b.is_ascii_alphanumeric()) {
        if word.len() >= 16 && word.iter().all(u8::is_ascii_hexdigit) {
            out.push(b'#');
            continue;
        }
        // `20240101T0300Z` holds no letter but a time's own.
        let time = word.iter().all(|b| b.is_ascii_digit() || matches!(b, b'T' | b'Z'));
        for run in word.chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit()) {
            let number = run[0].is_ascii_digit();
            dated |= number && run.len() >= 4;
            if number && (run.len() >= 4 || dated && time) {
                out.push(b'#');
            } else {
                out.extend_from_slice(run);
            }
        }
    }
    text(&out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::recognise_name;

    fn of(path: &str) -> Lineage {
        let path = TargetPath::new(path).unwrap();
        lineage(recognise_name(&path).map_or(Format::Qcow2, |r| r.format), &path)
    }

    #[test]
    fn sets_of_one_host_and_disk_follow_one_another() {
        for (old, new) in [
            ("d/srv@a_20240101_d01_00001.aiv", "d/srv@a_20240201_d01_00002.aiv"),
            ("d/srv@a_20240101_d01_00001_i00007.aii", "d/srv@a_20240101_d01_00002.aiv"),
            ("x_20240101_0100_b00001.afb", "x_20240101_0200_b00002.afb"),
            ("C_VOL-b001.spf", "C_VOL-b002.spf"),
            ("C_VOL-b001-i003-cd.spi", "C_VOL-b010.spf"),
            ("disk_full_b1_s1_v1.tib", "disk_full_b2_s1_v1.tib"),
            ("JobD2024-01-01T220000.vbk", "JobD2024-02-01T220000.vbk"),
            ("vzdump-qemu-100-2024_01_01-00_00_00.vma", "vzdump-qemu-100-2024_01_02-00_00_00.vma.zst"),
        ] {
            let (old, new) = (of(old), of(new));
            assert_eq!((&old.own, &old.family), (&new.own, &new.family));
            assert!(old.place.is_some() && old.place < new.place, "{old:?} {new:?}");
        }
    }

    #[test]
    fn what_names_do_not_order_time_does() {
        for (old, new) in [
            ("0011AABBCCDDEEFF-00-00.mrimg", "99AABBCCDDEEFF00-00-00.mrimg"),
            ("vm-2024-01.qcow2", "vm-2024-02.qcow2"),
            ("web1-20240101T030000.qcow2", "web1-20240201T031500.qcow2"),
            ("web1_2024-01-01_03-00.qcow2", "web1_2024-02-01_03-15.qcow2"),
            (
                "vm/set1/00000000-0000-0000-0000-000000000000_0.aiv",
                "vm/set2/11000000-0000-0000-0000-000000000000_0.aiv",
            ),
            ("vm/2024-01/vda.full.data", "vm/2024-02/vda.full.data"),
            ("vm/Set 1/vda.full.data", "vm/Set 12/vda.full.data"),
        ] {
            let (old, new) = (of(old), of(new));
            assert_eq!((&old.family, old.place, new.place), (&new.family, None, None));
        }
    }

    #[test]
    fn nothing_else_is_one_lineage() {
        for (a, b) in [
            ("srv@a_20240101_d01_00001.aiv", "srv@a_20240201_d02_00002.aiv"),
            ("srv@a_20240101_d01_00001.aiv", "other@a_20240201_d01_00002.aiv"),
            ("one/srv@a_20240101_d01_00001.aiv", "two/srv@a_20240201_d01_00002.aiv"),
            ("s1/C_VOL-b001.spf", "s2/C_VOL-b002.spf"),
            ("C_VOL-b001.spf", "D_VOL-b002.spf"),
            ("vzdump-qemu-100-2024_01_01-00_00_00.vma", "vzdump-qemu-101-2024_01_02-00_00_00.vma"),
            ("vzdump-qemu-100-2024_01_01-00_00_00.vma", "vzdump-lxc-100-2024_01_02-00_00_00.tar"),
            ("Job.vm-1D2024-01-01T220000.vbk", "Job.vm-2D2024-02-01T220000.vbk"),
            ("web.qcow2", "db.qcow2"),
            ("web1.qcow2", "web2.qcow2"),
            ("vm-101.qcow2", "vm-102.qcow2"),
            ("web1-2024-01.qcow2", "web2-2024-02.qcow2"),
            ("2024-01-01-web1.qcow2", "2024-02-01-web2.qcow2"),
            ("a/vda.full.data", "b/vda.full.data"),
            ("vm/101/vda.full.data", "vm/102/vda.full.data"),
            (
                "web1/00000000-0000-0000-0000-000000000000_0.aiv",
                "web2/00000000-0000-0000-0000-000000000000_0.aiv",
            ),
            (
                "hosta/00000000-0000-0000-0000-000000000000_0.aiv",
                "hostb/00000000-0000-0000-0000-000000000000_0.aiv",
            ),
        ] {
            assert_ne!(of(a).family, of(b).family);
            assert!(of(a).own != of(b).own || of(a).own.starts_with("Qcow2"), "{a} {b}");
        }
        // Each folder is kept from being emptied, whatever lies beside it.
        assert_ne!(of("vm/1/vda.full.data").own, of("vm/2/vda.full.data").own);
    }
}
