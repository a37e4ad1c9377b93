//! A file for workers that has no name: nothing to clean up, whatever kills whom. Workers open it through the
//! supervisor's descriptor in `/proc`.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

pub struct Scratch(#[expect(dead_code, reason = "open as long as workers read it")] File);

impl Scratch {
    /// The file and the path under which workers of this process find it. `dir`: where its bytes are kept; the system's
    /// temporary directory where nothing of ours may change.
    pub fn new(dir: Option<&Path>) -> Result<(Self, PathBuf)> {
        let dir = dir.map_or_else(std::env::temp_dir, Path::to_owned);
        std::fs::create_dir_all(&dir).map_err(|e| Error::io("cannot make the directory", &dir, e))?;
        let nanos = super::progress::now_ns();
        let name = dir.join(format!("offsite-{}-{nanos:x}.scratch", std::process::id()));
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&name)
            .map_err(|e| Error::io("cannot make a file", &name, e))?;
        std::fs::remove_file(&name).map_err(|e| Error::io("cannot remove", &name, e))?;
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        Ok((Self(file), path))
    }
}
