//! One worker process, seen from the supervisor: started, heard, told, watched, killed.
//!
//! What keeps processes apart: a worker's standard input is its control pipe, whose end tells it that the supervisor is
//! gone; its events come through a pipe of their own, whose write end is inheritable only while this one worker is
//! started; its standard output and error are captured as log text, bounded. A worker is its own process group, so that
//! a key press in the terminal reaches the supervisor alone, and a kill reaches what a plugin started.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

use super::protocol::{Control, Line, Op, Request};
use crate::error::{Error, Kind, Result};

/// Longest line of log text kept, bytes.
const LONGEST_LOG: usize = 4096;
/// Longest line a running worker may write, bytes.
const LONGEST_EVENT: usize = 1 << 20;
/// Longest answer (a plan of millions of images), bytes.
const LONGEST_ANSWER: usize = 2 << 30;
/// What is waited for a killed process to go.
const DEATH: Duration = Duration::from_secs(10);

/// What a worker said.
#[derive(Debug)]
pub enum Heard {
    Line(Line),
    /// Standard output or error.
    Output(String),
    /// A line that is none of the protocol's.
    Garbled(Error),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Exited(ExitStatus),
    /// Killed, and still there: it is stuck in an uninterruptible call, and was left behind.
    Stuck,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stuck => f.write_str("is stuck in the kernel and was left behind"),
            Self::Exited(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "ended with status {code}"),
                (_, Some(signal)) => write!(f, "was ended by signal {signal}{}", signal_name(signal)),
                _ => f.write_str("ended"),
            },
        }
    }
}

fn signal_name(number: i32) -> &'static str {
    match number {
        4 => " (illegal instruction)",
        6 => " (abort)",
        7 => " (bus error)",
        8 => " (arithmetic error)",
        9 => " (killed)",
        11 => " (segmentation fault)",
        15 => " (terminated)",
        _ => "",
    }
}

pub struct Worker {
    child: Child,
    /// `None` once the worker closed it.
    control: Option<ChildStdin>,
    heard: mpsc::Receiver<Heard>,
    ended: Option<Ended>,
    pub pid: u32,
}

/// No other child may inherit the write end of this one's event pipe.
static STARTING: Mutex<()> = Mutex::new(());

impl Worker {
    /// Starts a worker and sends it its request. `hide`: environment variables that hold secrets, kept from it.
    pub async fn start(request: &Request, title: &str, hide: &[String]) -> Result<Self> {
        let io = |what: &str, e: std::io::Error| {
            Error::new(Kind::Io, format!("cannot start a worker: {what}")).on(title.to_owned()).because(e)
        };
        let line = request.to_line()?;
        let (events, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| io("no pipe for its events", e.into()))?;
        let events = tokio::net::unix::pipe::Receiver::from_owned_fd(events)
            .map_err(|e| io("no pipe for its events", e))?;
        let mut child = spawn(theirs, title, hide).map_err(|e| io("the program does not start", e))?;
        let pid = child.id().unwrap_or_default();
        let (say, heard) = mpsc::channel(256);
        let longest = if request.op == Op::Run { LONGEST_EVENT } else { LONGEST_ANSWER };
        tokio::spawn(lines(events, longest, say.clone(), |line| match line {
            Ok(text) => match Line::parse(&text) {
                Ok(line) => Heard::Line(line),
                Err(error) => Heard::Garbled(error),
            },
            Err(length) => {
                let what = "a worker wrote a line that is too long";
                Heard::Garbled(
                    Error::new(Kind::WorkerDied, what).because(format!("more than {length} bytes")),
                )
            }
        }));
        let output = |line: Result<String, usize>| match line {
            Ok(text) => Heard::Output(text),
            Err(_) => Heard::Output("(a longer line was left out)".to_owned()),
        };
        if let Some(out) = child.stdout.take() {
            tokio::spawn(lines(out, LONGEST_LOG, say.clone(), output));
        }
        if let Some(err) = child.stderr.take() {
            tokio::spawn(lines(err, LONGEST_LOG, say, output));
        }
        let mut worker = Self { control: child.stdin.take(), child, heard, ended: None, pid };
        if let Some(stdin) = &mut worker.control {
            // A worker that dies before it has read its request is seen by its end.
            if stdin.write_all(&line).await.is_err() {
                worker.control = None;
            }
        }
        Ok(worker)
    }

    /// The next thing said. `None` when the process has ended and everything it said was heard.
    pub async fn next(&mut self) -> Option<Heard> {
        if self.ended.is_none() {
            tokio::select! {
                biased;
                heard = self.heard.recv() => {
                    if heard.is_some() {
                        return heard;
                    }
                    // All pipes closed: the end is near, or the worker closed them itself.
                    let status = self.child.wait().await;
                    self.ended = Some(Ended::Exited(status.unwrap_or_default()));
                    return None;
                }
                status = self.child.wait() => {
                    self.ended = Some(Ended::Exited(status.unwrap_or_default()));
                }
            }
        }
        // Something a plugin started may hold the pipes open: what is in them now is all that is waited for.
        tokio::time::timeout(Duration::from_millis(300), self.heard.recv()).await.ok().flatten()
    }

    /// Tells the worker something; a worker that does not listen any more is not an error.
    pub async fn tell(&mut self, control: &Control) {
        let Ok(mut line) = serde_json::to_vec(control).map(zeroize::Zeroizing::new) else { return };
        line.push(b'\n');
        if let Some(stdin) = &mut self.control {
            let write = tokio::time::timeout(Duration::from_secs(1), stdin.write_all(&line)).await;
            if !matches!(write, Ok(Ok(()))) {
                self.control = None;
            }
        }
    }

    /// Kills the worker with everything it started, and waits a bounded time for its end.
    pub async fn kill(&mut self) -> Ended {
        if let Some(ended) = self.ended {
            return ended;
        }
        // The child was not waited for: its number cannot have been given to another process.
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid as i32)) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let ended = match tokio::time::timeout(DEATH, self.child.wait()).await {
            Ok(status) => Ended::Exited(status.unwrap_or_default()),
            Err(_) => Ended::Stuck,
        };
        self.ended = Some(ended);
        ended
    }

    /// How it ended; once [`Worker::next`] gave `None` or after [`Worker::kill`].
    pub fn ended(&self) -> Option<Ended> {
        self.ended
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.ended.is_none()
            && let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid as i32))
        {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// The running program, whatever became of its file since.
pub(super) fn program() -> OsString {
    match std::env::current_exe() {
        Ok(path) if path.is_file() => path.into_os_string(),
        _ => OsString::from("/proc/self/exe"),
    }
}

fn spawn(events: OwnedFd, title: &str, hide: &[String]) -> std::io::Result<Child> {
    let mut command = Command::new(program());
    command
        .arg0(title)
        .args(["worker", "--events-fd"])
        .arg(events.as_raw_fd().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    for name in hide {
        command.env_remove(name);
    }
    let _alone = STARTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    fcntl_setfd(&events, FdFlags::empty())?;
    let child = command.spawn();
    // Closed here, so that the worker's copy is the only one.
    drop(events);
    child
}

/// Hands on each line of `from`; one longer than `longest` is skipped and handed on as its bound.
async fn lines(
    mut from: impl AsyncRead + Unpin,
    longest: usize,
    to: mpsc::Sender<Heard>,
    make: impl Fn(Result<String, usize>) -> Heard,
) {
    let mut chunk = vec![0; 64 * 1024];
    let mut line = Vec::new();
    let mut too_long = false;
    loop {
        let read = from.read(&mut chunk).await.unwrap_or(0);
        let mut rest = &chunk[..read];
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            let over = std::mem::take(&mut too_long) || line.len() > longest;
            let text = String::from_utf8_lossy(&line).into_owned();
            line.clear();
            if to.send(make(if over { Err(longest) } else { Ok(text) })).await.is_err() {
                return;
            }
        }
        if too_long || line.len() + rest.len() > longest {
            too_long = true;
            line.clear();
        } else {
            line.extend_from_slice(rest);
        }
        if read == 0 {
            if !line.is_empty() || too_long {
                let text = String::from_utf8_lossy(&line).into_owned();
                let _ = to.send(make(if too_long { Err(longest) } else { Ok(text) })).await;
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn heard(text: &[u8], longest: usize) -> Vec<String> {
        let (say, mut heard) = mpsc::channel(64);
        lines(text, longest, say, |line| Heard::Output(line.unwrap_or_else(|n| format!("over {n}")))).await;
        let mut all = Vec::new();
        while let Some(Heard::Output(text)) = heard.recv().await {
            all.push(text);
        }
        all
    }

    #[test]
    fn lines_are_whole_and_bounded() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            assert_eq!(heard(b"a\nbb\n\nend", 3).await, ["a", "bb", "", "end"]);
            assert_eq!(heard(b"abcd\nok\nabcdef", 3).await, ["over 3", "ok", "over 3"]);
            let mut long = vec![b'x'; 200_000];
            long.extend_from_slice(b"\nafter\n");
            assert_eq!(heard(&long, 4096).await, ["over 4096", "after"]);
            assert_eq!(heard(b"\xff\n", 9).await, ["\u{fffd}"]);
        });
    }
}
