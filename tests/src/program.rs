//! The program under test, run as a user runs it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The folder with the program and plugin libraries: `target/debug` (or `release`), built from what the sources are now.
pub fn built() -> PathBuf {
    crate::build::artefacts().to_owned()
}

/// One way of calling the program: arguments and environment are added, then it is run.
pub struct Offsite {
    command: Command,
    args: Vec<String>,
}

/// What a finished run left.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Panics with everything printed unless the exit code is `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// The JSON objects on standard output, one a line.
    pub fn events(&self) -> Vec<Value> {
        self.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The whole standard output as one JSON value.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| {
            panic!("not JSON: {e}\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr)
        })
    }

    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl Offsite {
    /// `state`: the state directory, so that tests do not meet.
    pub fn new(state: &Path) -> Self {
        let mut command = Command::new(built().join("offsite"));
        command.env_remove("OFFSITE_PLUGIN_PATH").env("HOME", state).env("NO_COLOR", "1");
        for name in ["XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"] {
            command.env_remove(name);
        }
        Self { command, args: vec!["--state-dir".into(), state.to_string_lossy().into_owned()] }
    }

    pub fn args<S: AsRef<str>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    pub fn run(mut self) -> Ran {
        let Output { status, stdout, stderr } =
            self.command.args(&self.args).stdin(Stdio::null()).output().expect("the program starts");
        Ran {
            code: status.code(),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    /// Starts it in the background, its output in files of `dir`.
    pub fn start(mut self, dir: &Path) -> Running {
        let out = dir.join(format!("stdout-{}", unique()));
        let err = dir.join(format!("stderr-{}", unique()));
        let child = self
            .command
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&out).expect("a file for the output"))
            .stderr(std::fs::File::create(&err).expect("a file for the errors"))
            .spawn()
            .expect("the program starts");
        Running { child, out, err }
    }
}

fn unique() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::SeqCst)
}

pub struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.err).unwrap_or_default()).into_owned()
    }

    pub fn finished(&mut self) -> bool {
        self.child.try_wait().expect("waiting for a child works").is_some()
    }

    /// Signals the supervisor only, as a user's `kill` does.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).expect("a live pid");
        rustix::process::kill_process(pid, signal).expect("the process is there");
    }

    /// Waits for the end; panics after `limit` with what was printed.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Ran {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("waiting for a child works") {
                return Ran { code: status.code(), stdout: self.stdout(), stderr: self.stderr() };
            }
            if start.elapsed() > limit {
                let _ = self.child.kill();
                panic!(
                    "still running after {limit:?}\n--- stdout\n{}\n--- stderr\n{}",
                    self.stdout(),
                    self.stderr()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The worker processes of this run: children of the supervisor, by title.
    pub fn workers(&self) -> Vec<(u32, String)> {
        children(self.pid())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// SIGKILL to the supervisor and its workers at once, as a power cut would end them.
pub fn kill_all(run: &Running) {
    let workers = run.workers();
    run.signal(rustix::process::Signal::KILL);
    for (pid, _) in workers {
        if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Child processes of `pid` with their command lines.
pub fn children(pid: u32) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc is mounted").flatten() {
        let Ok(child) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name may hold spaces and parentheses: the fields follow the last ')'.
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        if parent == Some(pid.to_string().as_str()) {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push((child, String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned()));
        }
    }
    found
}

/// Polls until `done` or panics after `limit`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
