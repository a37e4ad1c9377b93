//! Real mounts for tests: disks (a file with a file system, by a loop device) and bind mounts. They need root.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mount that ends with the value.
pub struct Mount {
    point: PathBuf,
}

fn mount(options: &[&str], from: &Path, point: &Path) -> Mount {
    std::fs::create_dir_all(point).expect("a folder to mount on");
    let done = Command::new("mount").args(options).arg(from).arg(point).output().expect("mount is installed");
    assert!(
        done.status.success(),
        "cannot mount {} on {}: {}; this test needs root, loop devices (/dev/loop-control) and the right to mount \
         (CAP_SYS_ADMIN)",
        from.display(),
        point.display(),
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Mount { point: point.to_owned() }
}

impl Mount {
    /// `from` is seen at `point`, too.
    pub fn bind(from: &Path, point: &Path) -> Self {
        mount(&["--bind"], from, point)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let plain = Command::new("umount").arg(&self.point).output().is_ok_and(|done| done.status.success());
        if !plain {
            // A worker may still be on its way out of a call.
            let _ = Command::new("umount").arg("-l").arg(&self.point).status();
        }
    }
}

/// A small disk with an ext4 file system of its own UUID.
pub struct Disk {
    file: PathBuf,
}

impl Disk {
    pub fn new(file: PathBuf) -> Self {
        let made = std::fs::File::create(&file).and_then(|f| f.set_len(12 << 20));
        made.unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let done = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&file).output();
        let done = done.expect("mkfs.ext4 is installed (apt-get install e2fsprogs)");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self { file }
    }

    pub fn mount(&self, point: &Path) -> Mount {
        mount(&["-o", "loop"], &self.file, point)
    }
}
