//! Whether a directory or file may be used at all: nobody but root and the user who runs this may be able to change
//! it, because its code runs with this process's rights and sees the targets' secrets.
//!
//! Decided from the `fstat` of the descriptor that is then read, so that what was judged is what is used. That the
//! bytes are a vendor's own is not decided here.

use rustix::fs::Stat;

use super::mismatch::{Refusal, RefusalCode};

/// Who runs this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Me {
    pub uid: u32,
    pub gid: u32,
}

impl Me {
    pub fn now() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }
}

/// `what`: "the directory" or "the file".
pub(super) fn check(stat: &Stat, what: &str, me: Me) -> Result<(), Refusal> {
    let mode = stat.st_mode & 0o7777;
    if stat.st_uid != 0 && stat.st_uid != me.uid {
        return Err(Refusal::new(
            RefusalCode::ForeignOwner,
            format!("{what} belongs to user {}", stat.st_uid),
            format!("only root or you (user {}) may own it", me.uid),
            "use a copy of your own, or change its owner if you trust it",
        ));
    }
    if mode & 0o002 != 0 {
        return Err(Refusal::new(
            RefusalCode::Writable,
            format!("everybody may write to {what} (mode {mode:o})"),
            "only its owner may",
            "run chmod o-w on it, after making sure that it is still what you put there",
        ));
    }
    if mode & 0o020 != 0 && stat.st_gid != 0 && stat.st_gid != me.gid {
        return Err(Refusal::new(
            RefusalCode::Writable,
            format!("group {} may write to {what} (mode {mode:o})", stat.st_gid),
            "only its owner may",
            "run chmod g-w on it, after making sure that it is still what you put there",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(uid: u32, gid: u32, mode: u32) -> Stat {
        let mut stat = rustix::fs::stat("/").unwrap();
        stat.st_uid = uid;
        stat.st_gid = gid;
        stat.st_mode = 0o100_000 | mode;
        stat
    }

    #[test]
    fn only_what_nobody_else_can_change_is_used() {
        let me = Me { uid: 1000, gid: 1000 };
        for (uid, gid, mode, verdict) in [
            (0, 0, 0o755, None),
            (1000, 1000, 0o644, None),
            (1000, 1000, 0o664, None),
            (0, 0, 0o775, None),
            (0, 50, 0o755, None),
            (1000, 50, 0o664, Some(RefusalCode::Writable)),
            (1000, 1000, 0o646, Some(RefusalCode::Writable)),
            (0, 0, 0o1777, Some(RefusalCode::Writable)),
            (1001, 1000, 0o644, Some(RefusalCode::ForeignOwner)),
        ] {
            let found = check(&stat(uid, gid, mode), "the file", me).err().map(|r| r.code);
            assert_eq!(found, verdict, "uid {uid} gid {gid} mode {mode:o}");
        }
    }
}
