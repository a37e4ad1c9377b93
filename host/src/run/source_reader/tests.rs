//! Reading and hashing at once: every order, every resume, every way a source can change.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use super::*;
use crate::run::source_file::times;

struct Fixture {
    dir: tempfile::TempDir,
    data: Vec<u8>,
}

fn fixture(size: usize) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let data: Vec<u8> = (0..size).map(|i| (i.wrapping_mul(2_654_435_761) >> 9) as u8).collect();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(dir.path().join("d/f"), &data).unwrap();
    Fixture { dir, data }
}

fn reader(f: &Fixture) -> SourceReader {
    open(f, |_| ()).unwrap()
}

/// Opens what a scan saw with this difference.
fn open(f: &Fixture, difference: fn(&mut SourceFile)) -> Result<SourceReader> {
    let meta = std::fs::metadata(f.dir.path()).unwrap();
    let root = SourceRoot::open(f.dir.path(), meta.dev(), meta.ino()).unwrap();
    let meta = std::fs::metadata(f.dir.path().join("d/f")).unwrap();
    let (mtime_ns, ctime_ns) = times(&meta);
    let mut scanned = SourceFile {
        path: TargetPath::new("d/f").unwrap(),
        size: meta.len(),
        mtime_ns,
        ctime_ns,
        device: meta.dev(),
        inode: meta.ino(),
        recognised: None,
    };
    difference(&mut scanned);
    SourceReader::open(&root, &scanned, Arc::default())
}

fn no_tick() -> Result<()> {
    Ok(())
}

#[test]
fn another_number_is_the_same_file_and_another_change_time_is_not() {
    let f = fixture(10);
    assert!(open(&f, |seen| seen.inode += 1).is_ok(), "a network file system numbers anew");
    let changes: [fn(&mut SourceFile); 3] = [|s| s.size += 1, |s| s.mtime_ns += 1, |s| s.ctime_ns += 1];
    for change in changes {
        let error = open(&f, change).err().unwrap();
        assert_eq!(*error.kind(), ErrorKind::SourceChanged);
    }
}

#[test]
fn any_pattern_of_reads_gives_the_bytes_and_the_hash() {
    let f = fixture((3 << 20) + 12_345);
    let hash = *blake3::hash(&f.data).as_bytes();
    let len = f.data.len();
    let sequential = |step: usize| (0..len).step_by(step).map(|o| (o, step)).collect::<Vec<_>>();
    let mut backwards = sequential(300_000);
    backwards.reverse();
    let patterns = [
        sequential(4 << 20),
        sequential(1 << 20),
        sequential(100_000),
        backwards,
        vec![(1_500_000, 700_000), (0, 200_000), (100_000, 300_000), (2_000_000, 10)],
        vec![],
    ];
    for pattern in patterns {
        let reader = reader(&f);
        for &(offset, step) in &pattern {
            let mut buf = vec![0; step];
            let n = reader.read_at(offset as u64, &mut buf).unwrap();
            assert_eq!(n, step.min(len - offset));
            assert!(buf[..n] == f.data[offset..offset + n], "{offset}");
        }
        assert_eq!(reader.complete(&no_tick).unwrap(), hash, "{pattern:?}");
    }
}

#[test]
fn threads_reading_their_own_ranges_agree() {
    let f = fixture(5 << 20);
    let reader = reader(&f);
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let (reader, data) = (&reader, &f.data);
            s.spawn(move || {
                let part = (5 << 20) / 4;
                let mut buf = vec![0; 65_536];
                for o in (t * part..(t + 1) * part).step_by(65_536) {
                    assert_eq!(reader.read_at(o, &mut buf).unwrap(), 65_536);
                    assert!(buf[..] == data[o as usize..o as usize + 65_536]);
                }
            });
        }
    });
    assert_eq!(reader.complete(&no_tick).unwrap(), *blake3::hash(&f.data).as_bytes());
}

fn flip(f: &Fixture, at: u64) {
    let path = f.dir.path().join("d/f");
    let before = std::fs::metadata(&path).unwrap().modified().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_at(&[f.data[at as usize] ^ 1], at).unwrap();
    file.set_modified(before).unwrap();
}

#[test]
fn a_block_that_reads_differently_is_a_changed_source_even_with_its_old_time() {
    let f = fixture(2 << 20);
    let mut buf = vec![0; 300_000];
    let again = reader(&f);
    again.read_at(0, &mut buf).unwrap();
    flip(&f, 5);
    assert_eq!(again.read_at(0, &mut buf).unwrap_err().kind(), &ErrorKind::SourceChanged);
    let f = fixture(2 << 20);
    let finished = reader(&f);
    finished.read_at(0, &mut buf).unwrap();
    flip(&f, 5);
    assert_eq!(finished.complete(&no_tick).unwrap_err().kind(), &ErrorKind::SourceChanged);
}

#[test]
fn a_shorter_or_newer_file_is_a_changed_source() {
    let f = fixture(2 << 20);
    let reader1 = reader(&f);
    let file = std::fs::OpenOptions::new().write(true).open(f.dir.path().join("d/f")).unwrap();
    file.set_len(1 << 20).unwrap();
    let mut buf = vec![0; 4096];
    assert_eq!(reader1.read_at((2 << 20) - 4096, &mut buf).unwrap_err().kind(), &ErrorKind::SourceChanged);
    let reader2 = reader(&f);
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(reader2.complete(&no_tick).unwrap_err().kind(), &ErrorKind::SourceChanged);
}

#[test]
fn a_link_inside_the_source_is_not_followed() {
    let f = fixture(10);
    std::os::unix::fs::symlink("d", f.dir.path().join("l")).unwrap();
    let meta = std::fs::metadata(f.dir.path()).unwrap();
    let root = OnDisk::open(f.dir.path(), meta.dev(), meta.ino()).unwrap();
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
    assert!(root.open_file(&TargetPath::new("d/f").unwrap()).is_ok());
    assert!(root.walk(&TargetPath::new("d/f").unwrap(), flags).is_ok());
    assert!(root.open_file(&TargetPath::new("l/f").unwrap()).is_err());
    assert!(root.walk(&TargetPath::new("l/f").unwrap(), flags).is_err());
    assert!(OnDisk::open(f.dir.path(), meta.dev(), meta.ino() + 1).is_err());
}
