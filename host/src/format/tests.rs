//! Names and headers: what each format says, and that no input makes a format panic.

use offsite_plugin_api::TargetPath;
use proptest::prelude::*;

use super::*;

fn path(text: &str) -> TargetPath {
    TargetPath::new(text).expect("a valid path")
}

fn name(text: &str) -> Recognised {
    recognise_name(&path(text)).unwrap_or_else(|| panic!("{text} is not recognised"))
}

/// Set, kind, role, number, branch: what the chains are made of.
fn numbered(text: &str) -> (String, ImageKind, Role, u64, usize, bool) {
    let r = name(text);
    let Link::Number { branch, number, consolidated } = r.link else { panic!("{text}: {:?}", r.link) };
    (r.set, r.kind, r.role, number, branch.len(), consolidated)
}

#[test]
fn numbered_names_give_set_kind_and_number() {
    use ImageKind::*;
    use Role::*;
    let table: &[(&str, &str, ImageKind, Role, u64, usize, bool)] = &[
        ("d/h@c_20180101_d00_00001.aiv", "d/h@c_20180101_d00_00001.aiv", Base, Anchor, 0, 0, false),
        (
            "d/h@c_20180101_d00_00001_i00012.aii",
            "d/h@c_20180101_d00_00001.aiv",
            Incremental,
            Anchor,
            12,
            0,
            false,
        ),
        ("f_20220101_0930_b00001.afb", "f_b00001.afb", Base, Anchor, 0, 0, false),
        ("f_20220102_0930_b00001_i00001.afb", "f_b00001.afb", Incremental, Anchor, 1, 0, false),
        ("C-b000.spf", "C-b000.spf", Base, Anchor, 0, 0, false),
        ("C-b000-d000-i000.spf", "C-b000.spf", Base, Anchor, 0, 0, false),
        ("C-b000-i003.spi", "C-b000.spf", Incremental, Anchor, 3, 0, false),
        ("C-b000-d001.spi", "C-b000.spf", Differential, Anchor, 0, 1, false),
        ("C-b000-d001-i002.spi", "C-b000.spf", Incremental, Anchor, 2, 1, false),
        ("C-b000-i024-cd.spi", "C-b000.spf", Incremental, Anchor, 24, 0, true),
        ("C-b000-i168-cd-cw.spi", "C-b000.spf", Incremental, Anchor, 168, 0, true),
        ("C-b000.sp1", "C-b000.spf", Base, Part(2), 0, 0, false),
        ("C-b000-i003.md5", "C-b000.spf", Incremental, SideCar, 3, 0, false),
        ("C-b000-i003.spi.md5", "C-b000.spf", Incremental, SideCar, 3, 0, false),
        ("AB12-00-00.mrimg", "AB12.mrimg", Base, Running(0), 0, 0, false),
        ("AB12-01-02.mrimgx", "AB12.mrimg", Incremental, Running(2), 1, 0, false),
        ("AB12-01-02.mrbak", "AB12.mrbak", Incremental, Running(2), 1, 0, false),
        ("My_full_b1_s1_v1.tib", "My_b1.tib", Base, Anchor, 1, 0, false),
        ("My_full_b1_s1_v2.tib", "My_b1.tib", Base, Part(2), 1, 0, false),
        ("My_diff_b1_s3_v1.tib", "My_b1.tib", Differential, Anchor, 3, 0, false),
        ("My.tibx", "My.tibx", Base, Anchor, 0, 0, false),
        ("My-0003.tibx", "My.tibx", Incremental, Anchor, 3, 0, false),
        ("vm/vda.full.data", "vm/*.data", Base, Anchor, 0, 1, false),
        ("vm/vda.inc.virtnbdbackup.2.data", "vm/*.data", Incremental, Anchor, 2, 1, false),
        ("vm/vda.inc.virtnbdbackup.2.data.chksum", "vm/*.data", Incremental, SideCar, 2, 1, false),
        ("vm/vda.inc.virtnbdbackup.2.data.partial", "vm/*.data", Incremental, InProgress, 2, 1, false),
        ("vm/vda.diff.1700000000.data", "vm/*.data", Differential, Anchor, 0, 2, false),
    ];
    for (text, set, kind, role, number, branch, consolidated) in table {
        let expected = ((*set).to_owned(), *kind, role.clone(), *number, *branch, *consolidated);
        assert_eq!(numbered(text), expected, "{text}");
    }
}

#[test]
fn one_image_has_one_key_for_all_its_files() {
    for (a, b) in [
        ("C-b000-i003.spi", "C-b000-i003.md5"),
        ("C-b000-i003.spi", "C-b000-d000-i003.sp1"),
        ("AB-01-02.mrimg", "AB-01-03.mrimg"),
        ("vm/vda.full.data", "vm/vda.full.data.chksum"),
        ("vzdump-qemu-100-2024_01_02-03_04_05.vma.zst", "vzdump-qemu-100-2024_01_02-03_04_05.log"),
        ("vzdump-qemu-100-2024_01_02-03_04_05.vma.zst", "vzdump-qemu-100-2024_01_02-03_04_05.vma.zst.notes"),
    ] {
        assert_eq!((name(a).set, name(a).image), (name(b).set, name(b).image), "{a} and {b}");
    }
    assert_ne!(name("C-b000-i003.spi").image, name("C-b000-i003-cd.spi").image);
}

#[test]
fn names_without_a_number_are_ordered_by_time_or_date() {
    let r = name("x/01234567-89ab-cdef-0123-456789abcdef_0A1b.aii");
    assert_eq!((r.set.as_str(), r.kind, r.link), ("x/*.aiv", ImageKind::Incremental, Link::Time));
    let r = name("Job.vm-12D2024-01-02T030405_9F3A.vrb");
    assert_eq!(
        (r.set.as_str(), r.link),
        ("Job.vm-12.vbk", Link::Moment { at: 20_240_102_030_405, reverse: true })
    );
    let r = name("Job.vm-12_9F3AC.vbm");
    assert_eq!((r.set.as_str(), r.role), ("Job.vm-12.vbk", Role::SetFile));
    assert_eq!(name("vm/checkpoints/virtnbdbackup.0.xml").set, "vm/*.data");
    assert_eq!(name("vm1.cpt").set, "*.data");
}

#[test]
fn near_misses_are_left_alone() {
    for text in [
        "h@c_20180101_d00_00001_i00001.aiv",
        "h@c_20180101_d00_00001.aii",
        "vzdump-qemu-1-2024_01_02-03_04_05.vma",
        "C-b0.spf",
        "readme.txt",
        "vda.inc.nothing.data",
        "C-b99999999999999999999999.spf/x",
        "C-b000-i99999999999999999999999.spi",
        "xcheckpoints/virtnbdbackup.0.xml",
    ] {
        assert_eq!(recognise_name(&path(text)), None, "{text}");
    }
}

#[test]
fn a_name_that_is_not_utf8_is_recognised_and_kept_apart() {
    let a = TargetPath::new(b"\xff-b000.spf".to_vec()).unwrap();
    let b = TargetPath::new(b"\xfe-b000.spf".to_vec()).unwrap();
    assert_ne!(recognise_name(&a).unwrap().set, recognise_name(&b).unwrap().set);
    assert_ne!(
        recognise_name(&a).unwrap().set,
        name(r"\xff-b000.spf").set,
        "an escaped name is not the bytes it shows"
    );
}

/// A version 3 header; `backing` goes where QEMU puts it, behind the extensions.
fn qcow2(backing: &[u8], features: u64, extensions: &[(u32, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 104];
    bytes[..4].copy_from_slice(b"QFI\xfb");
    bytes[4..8].copy_from_slice(&3u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&16u32.to_be_bytes());
    bytes[24..32].copy_from_slice(&(1u64 << 30).to_be_bytes());
    bytes[72..80].copy_from_slice(&features.to_be_bytes());
    bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
    for (kind, data) in extensions {
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes.extend_from_slice(&[0; 8]);
    if !backing.is_empty() {
        let offset = bytes.len() as u64;
        bytes[8..16].copy_from_slice(&offset.to_be_bytes());
        bytes[16..20].copy_from_slice(&(backing.len() as u32).to_be_bytes());
        bytes.extend_from_slice(backing);
    }
    bytes.resize(65536, 0);
    bytes
}

fn header(bytes: &[u8]) -> Recognised {
    recognise(&path("vm/inc.snap1"), bytes.len() as u64, |n| {
        Ok::<_, ()>(bytes[..n.min(bytes.len())].to_vec())
    })
    .unwrap()
    .expect("a qcow2")
}

#[test]
fn qcow2_names_its_backing_file_in_its_own_directory() {
    assert_eq!(header(&qcow2(b"base.img", 0, &[])).link, Link::File(path("vm/base.img")));
    assert_eq!(header(&qcow2(b"./a//b", 0, &[(0xE279_2ACA, b"qcow2")])).link, Link::File(path("vm/a/b")));
    let base = header(&qcow2(b"", 0, &[]));
    assert_eq!((base.kind, base.link), (ImageKind::Base, Link::None));
}

#[test]
fn untrusted_backing_names_are_outside() {
    for bad in [
        &b"json:{\"driver\":\"file\"}"[..],
        b"nbd://host/x",
        b"file:base",
        b"/etc/passwd",
        b"../base",
        b"a/../../b",
        b"a\0b",
        b"a\nb",
        b".",
        b"./",
    ] {
        let link = header(&qcow2(bad, 0, &[])).link;
        assert!(
            matches!(&link, Link::Outside(why) if why.contains("its backing file is")),
            "{bad:?}: {link:?}"
        );
    }
}

#[test]
fn a_backing_name_beyond_the_limits_is_damage() {
    let long = header(&qcow2(&[b'a'; 1024], 0, &[]));
    assert!(matches!(&long.link, Link::Outside(why) if why.contains("1023")), "{long:?}");
    assert!(matches!(header(&qcow2(&[b'a'; 1023], 0, &[])).link, Link::File(_)));
    let mut far = qcow2(b"base", 0, &[]);
    far[8..16].copy_from_slice(&u64::MAX.to_be_bytes());
    assert!(matches!(header(&far).link, Link::Outside(_)));
    far[8..16].copy_from_slice(&65534u64.to_be_bytes());
    assert!(matches!(header(&far).link, Link::Outside(_)));
    assert!(matches!(header(&qcow2(b"base", 0, &[])[..90]).link, Link::Outside(_)), "cut off");
}

#[test]
fn an_external_data_file_is_a_part_and_bad_bits_are_told() {
    let r = header(&qcow2(b"", 4, &[(0x4441_5441, b"disk.raw")]));
    assert_eq!(r.parts, [path("vm/disk.raw")]);
    assert!(matches!(header(&qcow2(b"", 4, &[])).link, Link::Outside(_)));
    assert!(matches!(header(&qcow2(b"", 4, &[(0x4441_5441, b"/dev/sda")])).link, Link::Outside(_)));
    assert!(header(&qcow2(b"", 2, &[])).note.unwrap().contains("corrupt"));
    assert!(header(&qcow2(b"", 1, &[])).note.unwrap().contains("dirty"));
}

#[test]
fn version_2_has_a_shorter_header() {
    let mut bytes = qcow2(b"", 0, &[]);
    bytes[4..8].copy_from_slice(&2u32.to_be_bytes());
    bytes[72..].fill(0);
    bytes[8..16].copy_from_slice(&80u64.to_be_bytes());
    bytes[16..20].copy_from_slice(&4u32.to_be_bytes());
    bytes[80..84].copy_from_slice(b"base");
    assert_eq!(header(&bytes).link, Link::File(path("vm/base")));
}

#[test]
fn a_file_that_is_no_image_is_read_once_and_left_alone() {
    let mut reads = 0;
    let got = recognise(&path("x.bin"), 1 << 40, |n| {
        reads += 1;
        Ok::<_, ()>(vec![7; n])
    });
    assert_eq!((got, reads), (Ok(None), 1));
    assert!(!wants_header(&path("x.log")));
    assert!(!wants_header(&path("C-b000.spf")));
}

#[test]
fn names_of_unfinished_files_are_known() {
    for text in ["a.partial", "a.TMP", "C-b000.spwb", ".nfs0001"] {
        assert!(in_progress(&path(text)).is_some(), "{text}");
    }
    assert!(in_progress(&path("partial")).is_none());
}

proptest! {
    #[test]
    fn no_name_makes_a_format_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(path) = TargetPath::new(bytes) {
            recognise_name(&path);
            in_progress(&path);
        }
    }

    /// Names near the patterns, so that the branches behind them are reached.
    #[test]
    fn no_near_name_makes_a_format_panic(
        head in "[a-z@_\\-]{0,6}", n in any::<u64>(), m in 0u32..2000,
        tail in "(_full_b|_d00_|-b|-i|-d|D20|\\.inc\\.|-cd|\\.full){0,3}",
        ext in "(aiv|aii|afb|spf|spi|sp|mrimg|tib|tibx|vbk|vbm|data|chksum|partial|md5|cpt|xml)",
    ) {
        for text in [format!("{head}{tail}{n}.{ext}"), format!("{head}{tail}{m:03}-{m:02}.{ext}{m}"), format!("checkpoints/{head}.{ext}")] {
            if let Ok(path) = TargetPath::new(text) {
                recognise_name(&path);
            }
        }
    }

    #[test]
    fn no_header_makes_a_format_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..4096), v in 0u32..5, bits in 0u32..24,
        offset in prop_oneof![Just(0u64), 0..5000u64, any::<u64>()], length in prop_oneof![0..1100u32, any::<u32>()],
        size in any::<u64>(),
    ) {
        if bytes.len() >= 24 {
            bytes[..4].copy_from_slice(b"QFI\xfb");
            bytes[4..8].copy_from_slice(&v.to_be_bytes());
            bytes[8..16].copy_from_slice(&offset.to_be_bytes());
            bytes[16..20].copy_from_slice(&length.to_be_bytes());
            bytes[20..24].copy_from_slice(&bits.to_be_bytes());
        }
        let p = path("d/x");
        let _ = recognise_header(&p, size, &bytes);
        let _ = recognise_header(&p, bytes.len() as u64, &bytes);
        let read = |n: usize| Ok::<_, ()>(bytes[..n.min(bytes.len())].to_vec());
        prop_assert!(recognise(&p, size, read).is_ok());
    }
}
