//! A child process that cannot outlive the test: the kernel kills it when its parent thread ends, and that thread is
//! one that lives as long as the process.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::account::Account;
use crate::program::children;

/// How to start a server; kept, so that it can be started again.
#[derive(Clone, Debug)]
pub struct Recipe {
    name: String,
    arguments: Vec<std::ffi::OsString>,
    environment: Vec<(String, String)>,
    user: Option<(u32, u32)>,
    log: PathBuf,
}

impl Recipe {
    /// `program`: an absolute path. `log`: takes what the server prints, over all its starts.
    pub fn new(name: &str, program: &Path, log: PathBuf) -> Self {
        let arguments = vec![program.into()];
        Self { name: name.into(), arguments, environment: Vec::new(), user: None, log }
    }

    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// Runs it without privileges.
    pub fn user(mut self, account: &Account) -> Self {
        self.user = Some((account.uid, account.gid));
        self
    }

    fn command(&self) -> Command {
        // util-linux: sets the parent-death signal in the child, which would need unsafe code here.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some((uid, gid)) = self.user {
            command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups"]);
        }
        command.arg("--").args(&self.arguments).envs(self.environment.iter().map(|(k, v)| (k, v)));
        let log = File::options().create(true).append(true).open(&self.log).expect("the log can be written");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        command
    }
}

/// A server's main process; killed with its children when dropped.
#[derive(Debug)]
pub struct Process {
    recipe: Recipe,
    child: Option<Child>,
}

type Request = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Starts a process from a thread that never ends: the parent-death signal follows the thread, not the process.
fn spawn(command: Command) -> std::io::Result<Child> {
    static SPAWNER: LazyLock<Mutex<mpsc::Sender<Request>>> = LazyLock::new(|| {
        let (send, receive) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, answer) in receive {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(send)
    });
    let (answer, result) = mpsc::channel();
    SPAWNER.lock().expect("no test panics here").send((command, answer)).expect("the spawner lives");
    result.recv().expect("the spawner answers")
}

impl Process {
    /// Not started yet.
    pub fn new(recipe: Recipe) -> Self {
        Self { recipe, child: None }
    }

    /// Starts it and waits until `ready` says so; panics with its log when it ends before or takes more than 30 s.
    #[track_caller]
    pub fn start(&mut self, mut ready: impl FnMut() -> bool) {
        assert!(self.child.is_none(), "{} runs already", self.recipe.name);
        let spawned = spawn(self.recipe.command());
        self.child = Some(spawned.unwrap_or_else(|e| {
            panic!(
                "cannot start {}: {e} (setpriv is in the package util-linux: run tests/run)",
                self.recipe.name
            )
        }));
        let start = Instant::now();
        while !ready() {
            let name = self.recipe.name.clone();
            assert!(self.running(), "{name} ended at once:\n{}", self.log());
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "{name} is not ready after 30 s:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| child.try_wait().expect("waiting for a child works").is_none())
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Asks it to end (SIGTERM), waits, and kills it after 5 s. What it started ends too.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// SIGKILL, to it and to all it started: what a power cut leaves, but for the page cache.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Ends the children of the server (its sessions), not the server itself.
    pub fn kill_children(&self) {
        for pid in self.pid().map(descendants).unwrap_or_default() {
            signal(pid, Signal::KILL);
        }
    }

    /// Stops (SIGSTOP) or continues (SIGCONT) it and all it started: a server that hangs.
    pub fn freeze(&self, frozen: bool) {
        let what = if frozen { Signal::STOP } else { Signal::CONT };
        let Some(pid) = self.pid() else { return };
        for pid in std::iter::once(pid).chain(descendants(pid)) {
            signal(pid, what);
        }
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.recipe.log).unwrap_or_default()).into_owned()
    }

    fn end(&mut self, how: Signal) {
        let Some(mut child) = self.child.take() else { return };
        let started = descendants(child.id());
        signal(child.id(), how);
        let start = Instant::now();
        while child.try_wait().expect("waiting for a child works").is_none() {
            if start.elapsed() > Duration::from_secs(5) {
                signal(child.id(), Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // Sessions of their own: they would serve their connection to its end.
        for pid in started {
            signal(pid, Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn signal(pid: u32, what: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        let _ = kill_process(pid, what);
    }
}

fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for (child, _) in children(pid) {
        found.push(child);
        found.extend(descendants(child));
    }
    found
}

/// Whether something accepts connections there.
pub fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}
