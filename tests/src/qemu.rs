//! Real qcow2 chains, made and read by qemu.

use std::path::Path;
use std::process::Command;

#[track_caller]
fn run(program: &str, args: &[&str], dir: &Path) -> String {
    let output =
        Command::new(program).args(args).current_dir(dir).output().unwrap_or_else(|e| {
            panic!("cannot run {program}: {e}; install it with: apt-get install qemu-utils")
        });
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A base image of `mib` MiB virtual size, its first `filled` MiB written with a pattern of `seed`.
pub fn base(dir: &Path, name: &str, mib: u64, filled: u64, seed: u8) {
    run("qemu-img", &["create", "-q", "-f", "qcow2", name, &format!("{mib}M")], dir);
    write(dir, name, 0, filled * 1024 * 1024, seed);
}

/// An incremental on `parent` (same folder), with 1 MiB of its own at MiB `at`.
pub fn increment(dir: &Path, name: &str, parent: &str, at: u64, seed: u8) {
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", parent, "-F", "qcow2", name], dir);
    write(dir, name, at * 1024 * 1024, 1024 * 1024, seed);
}

/// Writes `bytes` of data that does not repeat from block to block.
pub fn write(dir: &Path, name: &str, at: u64, bytes: u64, seed: u8) {
    let mut commands = Vec::new();
    let step = 64 * 1024;
    for (i, offset) in (at..at + bytes).step_by(step).enumerate() {
        let pattern = seed.wrapping_mul(31).wrapping_add(i as u8) | 1;
        commands.push(format!("write -P {pattern} {offset} {}", step.min((at + bytes - offset) as usize)));
    }
    for chunk in commands.chunks(500) {
        let mut args = vec!["-f", "qcow2"];
        for command in chunk {
            args.extend(["-c", command]);
        }
        args.push(name);
        run("qemu-io", &args, dir);
    }
}

/// The guest's view of an image: BLAKE3 of its raw content, read through its whole chain.
pub fn content(dir: &Path, name: &str) -> String {
    let raw = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = raw.path().to_string_lossy().into_owned();
    run("qemu-img", &["convert", "-q", "-f", "qcow2", "-O", "raw", name, &path], dir);
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut std::fs::File::open(raw.path()).expect("the raw file"), &mut hasher)
        .expect("readable");
    hasher.finalize().to_hex().to_string()
}

/// The usual chain: `base.qcow2` and `count` incrementals `inc1.qcow2` … each on the one before.
pub fn chain(dir: &Path, count: u8) {
    base(dir, "base.qcow2", 16, 4, 1);
    for n in 1..=count {
        extend(dir, n);
    }
}

/// The chain's incremental `n`, on the one before.
pub fn extend(dir: &Path, n: u8) {
    let parent = if n == 1 { "base.qcow2".to_owned() } else { format!("inc{}.qcow2", n - 1) };
    increment(dir, &format!("inc{n}.qcow2"), &parent, u64::from(n), n + 1);
}

/// Merges `inc1..=last` into `inc<last>` as a backup product does at a target: the result carries the last number,
/// names the base as its parent, and the merged ones are gone.
pub fn consolidate(dir: &Path, last: u8) {
    let name = format!("inc{last}.qcow2");
    run("qemu-img", &["rebase", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", &name], dir);
    for n in 1..last {
        std::fs::remove_file(dir.join(format!("inc{n}.qcow2"))).expect("the merged image is there");
    }
}
