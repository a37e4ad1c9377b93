//! Promises that need a disk of their own: what is read back comes from it, and what it does when it is full. These tests
//! mount, so they need root.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use offsite_plugin_api::*;
use offsite_plugin_folder::Folder;

struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(arguments: &[&str]) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test mounts a file system: run it as root");
        let dir = tempfile::tempdir().unwrap();
        run(Command::new("mount").args(arguments).arg(dir.path()));
        Self(dir)
    }

    fn folder(&self) -> Folder {
        Folder::open_at(self.0.path().join("target").to_str().unwrap(), &serde_json::json!({})).unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Bytes that differ everywhere; `at_first_read` runs once.
struct Data {
    bytes: Vec<u8>,
    at_first_read: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Data {
    fn new(size: usize, at_first_read: impl FnOnce() + Send + 'static) -> Arc<Self> {
        let bytes = (0..size as u64 / 8).flat_map(|i| (i ^ 0x5eed_0ff5_17e0_0000).to_be_bytes()).collect();
        Arc::new(Self { bytes, at_first_read: Mutex::new(Some(Box::new(at_first_read))) })
    }
}

impl Source for Data {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if let Some(act) = self.at_first_read.lock().unwrap().take() {
            act();
        }
        let rest = &self.bytes[offset as usize..];
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

struct Nobody;

impl Session for Nobody {
    fn checkpoint(&self, _: &Token, _: &[Range], _: bool) -> Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Collected(Mutex<Vec<u8>>);

impl Sink for Collected {
    fn write(&self, bytes: &[u8]) -> Result<()> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(())
    }
}

const STAGING: &str = "offsite-0123abcd-0011223344556677.part";

fn stage(folder: &Folder, data: &Arc<Data>) -> Result<Staged> {
    let request = StageRequest {
        path: TargetPath::new("a.img").unwrap(),
        staging: TargetPath::new(STAGING).unwrap(),
        attributes: Attributes::default(),
        size: data.size(),
        streams: 4,
        owner: "x".into(),
        resume: None,
    };
    folder.stage(&Call::unwatched(), &request, data.clone(), Arc::new(Nobody))
}

fn read_back(folder: &Folder, token: &Token, range: Range) -> Vec<u8> {
    let sink = Arc::new(Collected::default());
    folder.read_staged(&Call::unwatched(), token, range, sink.clone()).unwrap();
    std::mem::take(&mut *sink.0.lock().unwrap())
}

fn position(haystack: &Path, needle: &[u8]) -> u64 {
    let bytes = fs::read(haystack).unwrap();
    bytes.windows(needle.len()).position(|w| w == needle).expect("the bytes are on the disk") as u64
}

#[test]
fn a_byte_flipped_on_the_disk_is_seen_although_the_cache_still_has_the_right_one() {
    let images = tempfile::tempdir().unwrap();
    let image = images.path().join("disk");
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
    let disk = Mounted::new(&["-o", "loop", image.to_str().unwrap()]);
    let folder = disk.folder();
    let data = Data::new((8 << 20) + 512, || ());
    let token = stage(&folder, &data).unwrap().token;
    let file = disk.0.path().join("target").join(STAGING);
    assert_eq!(fs::read(&file).unwrap(), data.bytes, "and now it is in the page cache");

    for at in [5_000_000_usize, (8 << 20) + 100] {
        let at = at - at % 8;
        let there = position(&image, &data.bytes[at..at + 64]);
        let beneath = fs::OpenOptions::new().read(true).write(true).open(&image).unwrap();
        beneath.write_all_at(&[!data.bytes[at]], there).unwrap();
        let range = Range { offset: at as u64 - 13, length: 60 };
        let read = read_back(&folder, &token, range);
        let right = &data.bytes[at - 13..at + 47];
        assert_eq!(fs::read(&file).unwrap()[at], data.bytes[at], "the cache does not know of it");
        assert_eq!(read.iter().zip(right).filter(|(a, b)| a != b).count(), 1, "the disk was read");
    }
}

#[test]
fn without_direct_reads_the_same_bytes_come_back() {
    let disk = Mounted::new(&["-t", "tmpfs", "-o", "size=32m", "none"]);
    let (folder, data) = (disk.folder(), Data::new(3 << 20, || ()));
    let token = stage(&folder, &data).unwrap().token;
    assert_eq!(read_back(&folder, &token, Range { offset: 0, length: 3 << 20 }), data.bytes);
    assert_eq!(
        read_back(&folder, &token, Range { offset: 1_000_001, length: 77 }),
        data.bytes[1_000_001..][..77]
    );
}

#[test]
fn a_full_disk_is_refused_before_staging_and_reported_when_it_fills_meanwhile() {
    let disk = Mounted::new(&["-t", "tmpfs", "-o", "size=16m", "none"]);
    let folder = disk.folder();
    let error = stage(&folder, &Data::new(32 << 20, || ())).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NoSpace, "{error}");
    assert!(error.message().contains("33554432"), "it says how much is needed: {error}");
    assert!(!disk.0.path().join("target").join(STAGING).exists(), "nothing is left");

    let hog = disk.0.path().join("hog");
    let data = Data::new(12 << 20, move || fs::write(hog, vec![1; 10 << 20]).unwrap());
    let error = stage(&folder, &data).unwrap_err();
    assert_eq!((error.kind(), error.retry()), (&ErrorKind::NoSpace, Retry::Never), "{error}");
}
