//! Whether qemu writes to an image now.
//!
//! qemu marks what it does with an image by shared byte-range locks ("open file description" locks): one byte per
//! permission it uses, from 100 on (QEMU `block/file-posix.c`, RAW_LOCK_PERM_BASE): +0 consistent read, +1 write, +2 write
//! unchanged, +3 resize. A reader holds +0 only. Asking takes no lock, and so never disturbs qemu.

use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// The bytes that only a writer holds: write, write unchanged, resize.
const FIRST: libc::off_t = 101;
const COUNT: libc::off_t = 3;

/// A file system that knows no locks counts as not locked: the settle time still guards.
pub(super) fn qemu_writes(file: impl AsFd) -> bool {
    let mut lock = libc::flock {
        // An exclusive lock would conflict with any that another holds there.
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: FIRST,
        l_len: COUNT,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => lock.l_type != libc::F_UNLCK as libc::c_short,
        Err(_) => false,
    }
}
