//! What follows from the type of a file system, by its magic number (statfs(2)).
//!
//! Known from the type alone, without a trial write: `plan` and `list` must not change a target. Where a type is not known
//! the careful answer is taken.

use offsite_plugin_api::{Capabilities, NameRules, Replace, Resume};

/// Ranges of one file in flight: more only make a disk seek.
const MOST_STREAMS: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    pub name: Option<&'static str>,
    /// A file keeps its inode number over a remount; FAT, shares and file systems in user space number anew.
    pub stable_inodes: bool,
    pub mtime_precision_ns: u64,
    /// What was synced outlasts a power cut, wherever it happens. Claimed for the journalled and copy-on-write file systems
    /// of the kernel's own. Not for shares (an NFS server that exports `async` and many CIFS servers answer a sync before
    /// they did it), nor for file systems in user space (many ignore it), FAT (no journal) and overlays (`volatile`).
    pub durable: bool,
    /// A local disk where direct writes are fastest and leave the page cache to others. Not where they would bypass
    /// compression (btrfs, zfs).
    pub direct_writes: bool,
    /// Whether a file can have holes. Without them a write beyond the end first fills the gap with zeros.
    pub sparse: bool,
    pub largest_file: Option<u64>,
    /// Windows' naming rules: case ignored, some characters and names refused (MS-FSCC 2.1.5).
    pub windows_names: bool,
}

impl Traits {
    pub fn of(magic: i64) -> Self {
        let disk = Self {
            name: None,
            stable_inodes: true,
            mtime_precision_ns: 1,
            durable: false,
            direct_writes: false,
            sparse: true,
            largest_file: None,
            windows_names: false,
        };
        let local = Self { durable: true, ..disk };
        let share = Self { stable_inodes: false, mtime_precision_ns: 1_000_000_000, ..disk };
        let windows = Self { windows_names: true, mtime_precision_ns: 100, ..share };
        match magic {
            0xef53 => Self { name: Some("ext4"), direct_writes: true, ..local },
            0x5846_5342 => Self { name: Some("xfs"), direct_writes: true, ..local },
            0xf2f5_2010 => Self { name: Some("f2fs"), direct_writes: true, ..local },
            0x9123_683e => Self { name: Some("btrfs"), ..local },
            0x2fc1_2fc1 => Self { name: Some("zfs"), ..local },
            // It outlasts nothing, and nothing of it is there to be half written.
            0x0102_1994 => Self { name: Some("tmpfs"), ..local },
            // What the server's own file system keeps is not known: seconds.
            0x6969 => Self { name: Some("nfs"), mtime_precision_ns: 1_000_000_000, ..disk },
            0x4d44 => Self {
                name: Some("vfat"),
                mtime_precision_ns: 2_000_000_000,
                sparse: false,
                largest_file: Some(u64::from(u32::MAX)),
                ..windows
            },
            0x2011_bab0 => {
                Self { name: Some("exfat"), mtime_precision_ns: 10_000_000, sparse: false, ..windows }
            }
            0x7366_746e => Self { name: Some("ntfs"), ..windows },
            0xff53_4d42 => Self { name: Some("cifs"), ..windows },
            0xfe53_4d42 => Self { name: Some("smb2"), ..windows },
            0x6573_5546 => Self { name: Some("fuse"), ..share },
            0x794c_7630 => Self { name: Some("overlay"), stable_inodes: false, ..disk },
            _ => share,
        }
    }

    pub fn streams(&self) -> u32 {
        if self.sparse { MOST_STREAMS } else { 1 }
    }

    pub fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable_checkpoints: self.durable,
            resume: Resume::Ranges,
            replace: Replace::Atomic,
            conditional_publish: true,
            staged_readable: true,
            names: self.names(),
            mtime_precision_ns: Some(self.mtime_precision_ns),
            copy: true,
            rename: true,
            parallel_ranges: self.streams(),
            largest_file: self.largest_file,
            ..Capabilities::default()
        }
    }

    fn names(&self) -> NameRules {
        if !self.windows_names {
            return NameRules::default();
        }
        let mut refused_names = ["CON", "PRN", "AUX", "NUL"].map(str::to_owned).to_vec();
        for n in 1..=9 {
            refused_names.extend([format!("COM{n}"), format!("LPT{n}")]);
        }
        NameRules {
            case_sensitive: false,
            refused: r#"<>:"\|?*"#.chars().chain('\u{1}'..='\u{1f}').collect(),
            refused_names,
            utf8_only: true,
            ..NameRules::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fat_declares_its_limits_and_a_disk_declares_none() {
        let fat = Traits::of(0x4d44).capabilities();
        assert!(!fat.names.case_sensitive && fat.names.refused.contains(':'));
        assert!(fat.names.refused_names.contains(&"LPT9".to_owned()));
        assert_eq!((fat.largest_file, fat.parallel_ranges), (Some(u64::from(u32::MAX)), 1));
        assert_eq!(fat.mtime_precision_ns, Some(2_000_000_000));
        let ext4 = Traits::of(0xef53).capabilities();
        assert!(ext4.names.case_sensitive && ext4.names.refused.is_empty() && ext4.largest_file.is_none());
    }

    #[test]
    fn only_a_sync_that_means_something_makes_checkpoints_durable() {
        let durable = |magic| Traits::of(magic).capabilities().durable_checkpoints;
        for magic in [0xef53, 0x5846_5342, 0x9123_683e, 0x2fc1_2fc1, 0xf2f5_2010, 0x0102_1994] {
            assert!(durable(magic), "{magic:#x}");
        }
        for magic in [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546, 0x4d44, 0x794c_7630, 0x1234] {
            assert!(!durable(magic), "{magic:#x}");
        }
    }

    #[test]
    fn an_unknown_file_system_gets_the_careful_answer() {
        let unknown = Traits::of(0x1234);
        assert!(!unknown.stable_inodes && !unknown.direct_writes && unknown.mtime_precision_ns > 1);
    }
}
