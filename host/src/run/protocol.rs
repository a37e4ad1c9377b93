//! What supervisor and worker say to each other: one request, control lines downward; events, questions and one
//! answer upward.
//!
//! Downward, on the worker's standard input: the [`Request`] as the first line (JSON), then one [`Control`] a line.
//! Its end means that the supervisor is gone: the worker ends. Upward, on the descriptor given as `--events-fd`:
//! one [`Line`] (JSON) each. Standard output and error of a worker are log text and never parsed, because a plugin's
//! C code may print there. Secrets travel downward only, and nothing here shows them in `Debug`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use offsite_plugin_api::{Capabilities, CheckReport, Space, TargetPath};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::chain::Chains;
use crate::config::{Job, Target};
use crate::error::{Error, Kind, Result};
use crate::plan::Plan;
use crate::report::Event;

/// What a worker is started for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Scan the source and write the inventory to [`Request::inventory`]. `job.targets` name the catalogs that know what
    /// was published; none of them is opened. Its answer is [`Answer::Scanned`].
    Scan,
    /// As `Scan`, but remembers nothing of what it saw: for commands that change nothing.
    Look,
    /// Replicate to the target. Ends with [`Event::Finished`]; holds the target's lock.
    Run,
    /// What a run would do; changes nothing, needs no lock. [`Answer::Plan`].
    Plan,
    /// The target's own check. [`Answer::Check`].
    Check,
    /// What is on the target. [`Answer::Chains`].
    Chains,
    /// How the backend names the place, without the network. [`Answer::Identity`].
    Identity,
    /// Claim a target that another installation (or another job) claimed. Holds the lock. [`Answer::Done`].
    TakeOver,
    /// Accept the unproven spans of these images (all unproven ones when empty). Holds the lock.
    /// [`Answer::Accepted`].
    Accept { images: Vec<TargetPath> },
    /// What the last run held, and which of it the user allows: these images, or all. Holds the lock.
    /// [`Answer::HeldDeletes`].
    AllowDeletes { images: Vec<TargetPath>, all: bool },
    /// Adopts what is mounted at a place of the source; touches no target.
    AcceptSource { place: TargetPath },
}

/// Secret values by the option's name.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretValues(pub BTreeMap<String, Zeroizing<String>>);

impl std::fmt::Debug for SecretValues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    pub op: Op,
    /// Of this run; the same for all of its workers, restarts included.
    pub run_id: String,
    /// 1 for the first start of this worker, counted up when the supervisor restarts it.
    pub attempt: u32,
    /// With this worker's target only.
    pub job: Job,
    pub secrets: SecretValues,
    /// From `--plugin-dir`; the rest of the search path a worker finds by itself.
    pub plugin_dirs: Vec<PathBuf>,
    pub state_dir: PathBuf,
    /// The postcard file of the source's [`crate::source::Inventory`]: written by `Scan`, read by the others.
    pub inventory: Option<PathBuf>,
    /// This machine's installation id.
    pub installation: String,
    /// Value of `{host}` in sub-folder templates.
    pub host: String,
    /// Log records at `debug` too.
    pub verbose: bool,
}

impl Request {
    /// The worker's target. Errors: `Usage` for a request without one.
    pub fn target(&self) -> Result<&Target> {
        self.job
            .targets
            .first()
            .ok_or_else(|| Error::new(Kind::Usage, "the worker's request names no target").on(&self.job.name))
    }

    /// The line to write, newline included.
    pub fn to_line(&self) -> Result<Zeroizing<Vec<u8>>> {
        let mut line = Zeroizing::new(Vec::with_capacity(64 * 1024));
        serde_json::to_writer(&mut *line, self)
            .map_err(|e| Error::new(Kind::Usage, "cannot write a worker's request").because(e))?;
        line.push(b'\n');
        Ok(line)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stop {
    /// Send no more, record what is staged, end.
    Checkpoint,
    /// End without waiting for anything.
    Now,
}

/// What may follow the request, one a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    Stop(Stop),
    /// The answer to [`Ask::Secret`].
    Secret {
        name: String,
        /// `None` where it could not be resolved.
        value: Option<SecretText>,
    },
}

/// A secret's value on the control pipe.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub Zeroizing<String>);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// A question to the supervisor; the worker waits at most ten seconds for the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Ask {
    /// Resolve this secret again (a token that expired) and send [`Control::Secret`].
    Secret { name: String },
}

/// The result of an operation other than a run; and of any operation that could not be done at all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    Scanned {
        files: u64,
        bytes: u64,
        unsettled: u64,
        unreadable: u64,
    },
    Plan {
        /// What a run would settle first, in words: open intents, open swaps.
        open: Vec<String>,
        plan: Plan,
    },
    Check {
        identity: String,
        report: CheckReport,
        /// `None` where the target could not be asked.
        capabilities: Option<Box<Capabilities>>,
        space: Option<Space>,
        /// Whose marker the target carries, in words; `None` when it was not reached.
        claim: Option<String>,
    },
    Chains {
        open: Vec<String>,
        chains: Chains,
    },
    Identity {
        identity: String,
    },
    Done {
        what: String,
    },
    Accepted {
        images: Vec<TargetPath>,
    },
    HeldDeletes {
        /// Held still; each with its bytes.
        held: Vec<(TargetPath, u64)>,
        /// Allowed now.
        allowed: Vec<TargetPath>,
    },
    Failed(Error),
}

/// One line of a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    Event(Event),
    Ask(Ask),
    Answer(Box<Answer>),
}

impl Line {
    /// Errors: `WorkerDied` for a line that is none of these.
    pub fn parse(line: &str) -> Result<Self> {
        serde_json::from_str(line)
            .map_err(|e| Error::new(Kind::WorkerDied, "a worker wrote a line that is no event").because(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_told_apart_by_its_tag() {
        let event = Line::Event(Event::Alive { note: "x".into() });
        let ask = Line::Ask(Ask::Secret { name: "password".into() });
        let answer = Line::Answer(Box::new(Answer::Done { what: "x".into() }));
        for line in [event, ask, answer] {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(Line::parse(&text).unwrap(), line, "{text}");
        }
        assert!(Line::parse("{\"noise\":1}").is_err());
    }

    #[test]
    fn control_lines_read_as_documented() {
        let stop: Control = serde_json::from_str(r#"{"stop":"checkpoint"}"#).unwrap();
        assert_eq!(stop, Control::Stop(Stop::Checkpoint));
        let secret =
            Control::Secret { name: "p".into(), value: Some(SecretText(Zeroizing::new("s3".into()))) };
        assert!(!format!("{secret:?}").contains("s3"));
    }
}
