//! For a plugin's `check`: small files of its own that are written, read, replaced, and taken away again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    Attributes, Backend, Call, CheckReport, Entry, Error, ErrorKind, Expect, PublishRequest, Range, Result,
    Session, Sink, Source, StageRequest, StepResult, TargetPath, Timestamp, Token,
};

/// The files of one check, at the target's top. Dropping it deletes what is left of them.
///
/// It calls the backend as the host does, so that what a check proves is what a run needs.
pub struct Probe<'a> {
    backend: &'a dyn Backend,
    call: &'a Call,
    pub path: TargetPath,
    pub staging: TargetPath,
    /// Where the old file goes while it is replaced by name.
    pub aside: TargetPath,
    awkward: TargetPath,
    /// What may be there.
    left: Mutex<Vec<TargetPath>>,
}

impl<'a> Probe<'a> {
    pub const FIRST: &'static [u8] = b"offsite check, first content";
    pub const SECOND: &'static [u8] = b"offsite check, second content, longer";

    /// `number`: tells this check's files from those of another one at the same time. `awkward`: characters that the server
    /// may change or refuse in a name, for [`Probe::names`].
    pub fn new(backend: &'a dyn Backend, call: &'a Call, number: u64, awkward: &str) -> Result<Self> {
        let path = |end: &str| TargetPath::new(format!("offsite-check-{number:x}{end}"));
        Ok(Self {
            backend,
            call,
            path: path("")?,
            staging: path(".part")?,
            aside: path(".old")?,
            awkward: path(&format!(" {awkward}"))?,
            left: Mutex::default(),
        })
    }

    /// Stages and publishes it.
    pub fn put(&self, path: &TargetPath, bytes: &'static [u8], expect: Expect) -> Result<Entry> {
        let request = self.stage_request(path, bytes);
        self.expect_left(&self.staging);
        let staged = self.backend.stage(self.call, &request, Arc::new(Bytes(bytes)), Arc::new(Unwatched))?;
        let entry = self.publish(path, bytes, staged.token, expect)?;
        self.left().retain(|left| *left != self.staging);
        Ok(entry)
    }

    pub fn stage_request(&self, path: &TargetPath, bytes: &[u8]) -> StageRequest {
        StageRequest {
            path: path.clone(),
            staging: self.staging.clone(),
            attributes: Attributes::default(),
            size: bytes.len() as u64,
            streams: 1,
            owner: "check".to_owned(),
            resume: None,
        }
    }

    pub fn publish(
        &self,
        path: &TargetPath,
        bytes: &'static [u8],
        token: Token,
        expect: Expect,
    ) -> Result<Entry> {
        let request = PublishRequest {
            token,
            path: path.clone(),
            expect,
            attributes: Attributes::default(),
            digests: Vec::new(),
            size: bytes.len() as u64,
            source: Arc::new(Bytes(bytes)),
        };
        self.expect_left(path);
        self.backend.publish(self.call, &request)
    }

    /// Reads a part of it, then all. Errors: `Corrupt` when it is not `wanted`.
    pub fn read(&self, path: &TargetPath, wanted: &[u8]) -> Result<()> {
        let part = Range { offset: 8, length: 5 };
        for (range, wanted) in [(Some(part), &wanted[8..13]), (None, wanted)] {
            let sink = Arc::new(Collected::default());
            self.backend.get(self.call, path, range, None, sink.clone())?;
            if *sink.0.lock().unwrap_or_else(PoisonError::into_inner) != wanted {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "what was written came back different: the server, its disk or a proxy changes it",
                ));
            }
        }
        Ok(())
    }

    /// Paths at the target's top that begin like this.
    pub fn listed(&self, begin: &[u8]) -> Result<Vec<TargetPath>> {
        self.listed_and_left_out(begin).map(|(found, _)| found)
    }

    /// And why the listing is not whole, where it says so.
    fn listed_and_left_out(&self, begin: &[u8]) -> Result<(Vec<TargetPath>, Option<String>)> {
        let mut found = Vec::new();
        let mut left_out = None;
        let mut page = None;
        loop {
            let answer = self.backend.list(self.call, &TargetPath::root(), false, page.as_deref())?;
            let paths = answer.entries.into_iter().map(|entry| entry.path);
            found.extend(paths.filter(|path| path.as_bytes().starts_with(begin)));
            left_out = left_out.or_else(|| answer.incomplete.into_iter().next().map(|(_, why)| why));
            page = answer.next;
            if page.is_none() {
                return Ok((found, left_out));
            }
        }
    }

    /// `listed`: whether a listing shows the file that was just written. One that leaves it out would leave out images, and
    /// they would look like lost ones.
    fn listing(&self, report: &mut CheckReport) {
        const NAME: &str = "listed";
        let not_there = |why: &str| {
            let message = format!("the server has '{}' and does not list it: {why}", self.path.display());
            Err(Error::new(ErrorKind::Corrupt, message))
        };
        match self.listed_and_left_out(self.path.as_bytes()) {
            Ok((found, None)) if found.contains(&self.path) => {
                report.step(NAME, Ok("the written file is listed".to_owned()));
            }
            Ok((found, Some(why))) if found.contains(&self.path) => {
                let text = format!("{why}: nothing is taken for gone, or deleted, where that is so");
                report.add(NAME, StepResult::Warned, text);
            }
            Ok((_, Some(why))) => {
                report.step(NAME, not_there(&why));
            }
            Ok((_, None)) => {
                report.step(NAME, not_there("its listings are late, or leave files out"));
            }
            Err(error) => {
                report.step(NAME, Err(error));
            }
        }
    }

    /// `write`, `read` and `listed`; whether the first one passed. `how`: it was written.
    pub fn write(&self, report: &mut CheckReport, how: &str) -> bool {
        let written = self.put(&self.path, Self::FIRST, Expect::Absent);
        let works = report.step("write", written.map(|_| how.to_owned()));
        if works {
            let read = self.read(&self.path, Self::FIRST);
            report.step("read", read.map(|()| "read back the same".to_owned()));
            self.listing(report);
        }
        works
    }

    /// `names`: whether the server keeps every character of one. What it made of the name is taken away again.
    pub fn names(&self, report: &mut CheckReport) {
        const NAME: &str = "names";
        let path = &self.awkward;
        let written = self.put(path, Self::FIRST, Expect::Absent).and_then(|_| self.read(path, Self::FIRST));
        // Up to the space before what is awkward.
        let begin = path.as_bytes().splitn(2, |byte| *byte == b' ').next().unwrap_or_default();
        let begin = [begin, b" "].concat();
        let found = self.listed(&begin).unwrap_or_default();
        let advice = "keep to plain letters and digits";
        match (written, found.iter().find(|found| *found != path)) {
            (Ok(()), None) if !found.is_empty() => {
                report.add(NAME, StepResult::Passed, "a name beyond ASCII comes back byte for byte");
            }
            (_, Some(other)) => {
                let text = format!("'{}' came back as '{}': {advice}", path.display(), other.display());
                report.add(NAME, StepResult::Warned, text);
            }
            (Ok(()), None) => {
                let text = format!("'{}' is not listed: {advice}", path.display());
                report.add(NAME, StepResult::Warned, text);
            }
            (Err(error), None) => {
                report.add(NAME, StepResult::Warned, format!("{advice} in names: {error}"));
            }
        }
        for made in found.iter().chain([path]) {
            let _ = self.remove(made);
        }
    }

    /// `replace`, in one act.
    pub fn replace(&self, report: &mut CheckReport) {
        let replaced =
            self.put(&self.path, Self::SECOND, Expect::Any).and_then(|_| self.read(&self.path, Self::SECOND));
        report.step("replace", replaced.map(|()| "replaced in one act".to_owned()));
    }

    /// `replace`, as the host does where there is no such act: the old file aside, the new one into the gap, the old one away.
    pub fn replace_by_name(&self, report: &mut CheckReport) {
        let (path, aside) = (&self.path, &self.aside);
        let replaced = || -> Result<String> {
            match self.put(path, Self::SECOND, Expect::Absent) {
                Err(error) if *error.kind() == ErrorKind::Exists => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        "the server overwrote a file although it was told not to",
                    ));
                }
            }
            self.expect_left(aside);
            self.backend.rename(self.call, path, aside, &Expect::Absent)?;
            self.put(path, Self::SECOND, Expect::Absent)?;
            self.read(path, Self::SECOND)?;
            self.remove(aside)?;
            Ok("moved aside, replaced, and the old one deleted".to_owned())
        };
        report.step("replace", replaced());
    }

    /// `times`. `unknown`: why files get the time of their upload, where they do.
    pub fn times(&self, report: &mut CheckReport, unknown: &str) {
        const NAME: &str = "times";
        let wanted = Timestamp { ns: 1_234_567_890_000_000_000, precision_ns: 1_000_000_000 };
        let attributes = Attributes { mtime: Some(wanted), ..Attributes::default() };
        match self.backend.set_attributes(self.call, &self.path, &attributes) {
            Ok(entry) if entry.mtime.is_some_and(|t| t.ns == wanted.ns) => {
                report.add(NAME, StepResult::Passed, "files keep their modification time");
            }
            Ok(_) => {
                report.add(NAME, StepResult::Warned, "the server does not keep a file's modification time")
            }
            Err(error) if *error.kind() == ErrorKind::Unsupported => {
                let text = format!("files get the time of their upload: {unknown}");
                report.add(NAME, StepResult::Skipped, text);
            }
            Err(error) => report.add(NAME, StepResult::Warned, error.to_string()),
        }
    }

    /// `delete`.
    pub fn delete(&self, report: &mut CheckReport) {
        report.step("delete", self.remove(&self.path).map(|()| "deleted".to_owned()));
    }

    /// Deletes it; it is not tried again.
    pub fn remove(&self, path: &TargetPath) -> Result<()> {
        self.left().retain(|left| left != path);
        self.backend.delete(self.call, path, &Expect::Any)
    }

    /// It may be there from now on: it is deleted in the end.
    pub fn expect_left(&self, path: &TargetPath) {
        let mut left = self.left();
        if !left.contains(path) {
            left.push(path.clone());
        }
    }

    fn left(&self) -> MutexGuard<'_, Vec<TargetPath>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `space`, where the server tells.
    pub fn space(&self, report: &mut CheckReport) {
        if let Ok(space) = self.backend.space(self.call)
            && let Some(free) = space.free
        {
            report.add("space", StepResult::Passed, format!("{} MiB free", free >> 20));
        }
    }
}

impl Drop for Probe<'_> {
    /// Whatever a failed step left.
    fn drop(&mut self) {
        for path in std::mem::take(&mut *self.left()) {
            let _ = self.backend.delete(self.call, &path, &Expect::Any);
        }
    }
}

/// A source of fixed bytes.
pub struct Bytes(pub &'static [u8]);

impl Source for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.0.get(at..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

/// Checkpoints that nobody keeps.
pub struct Unwatched;

impl Session for Unwatched {
    fn checkpoint(&self, _: &Token, _: &[Range], _: bool) -> Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Collected(Mutex<Vec<u8>>);

impl Sink for Collected {
    fn write(&self, bytes: &[u8]) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(())
    }
}
