//! Walk, settle, recognise: the snapshot that every worker of the job plans from.
//!
//! A file is settled when two observations at least one settle time apart found the same size, mtime, ctime and inode.
//! Observations count across runs, so only what is new makes a scan wait, and at most once.

use std::path::Path;
use std::time::Duration;

use super::ignore::Ignore;
use super::memory::{Judge, Memory, Sight};
use super::tree::{Folder, OnDisk, Tree};
use super::walk::{Facts, Walk};
use super::{Cause, Inventory, Observations, SourceFile, Unsettled, recognise, same_mtime, trouble};
use crate::error::{Error, Kind, Result};
use crate::format;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanOptions {
    /// How long a file must not change; zero takes every file as it is.
    pub settle: Duration,
    /// Wait, at most one settle time, for files that are not settled yet, and look again.
    pub wait: bool,
    /// Wait likewise for files that were there and are not any more: a target that syncs deletes only what was absent
    /// for a settle time.
    pub prove_absence: bool,
    /// Globs on paths relative to the source: what they name is not looked at, and never absent.
    pub ignore: Vec<String>,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self { settle: Duration::from_secs(30), wait: true, prove_absence: false, ignore: Vec::new() }
    }
}

/// Time, as the scan sees it: tests move it, and a stop ends a sleep.
pub trait Clock {
    /// Nanoseconds since the Unix epoch.
    fn now_ns(&mut self) -> i64;
    /// Errors: [`Kind::Stopped`] when the wait was cut short.
    fn sleep(&mut self, time: Duration) -> Result<()>;
    /// Errors: [`Kind::Stopped`] when long work is to end.
    fn proceed(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The machine's clock; `stop` is asked ten times a second during a wait.
pub struct SystemClock<F: FnMut() -> bool>(pub F);

impl<F: FnMut() -> bool> Clock for SystemClock<F> {
    fn now_ns(&mut self) -> i64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
    }

    fn sleep(&mut self, time: Duration) -> Result<()> {
        let end = std::time::Instant::now() + time;
        loop {
            if (self.0)() {
                return Err(Error::new(Kind::Stopped, "stopped while waiting for files to settle"));
            }
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    fn proceed(&mut self) -> Result<()> {
        self.sleep(Duration::ZERO)
    }
}

/// The source's settled files, with what formats say of them.
///
/// Errors: [`Kind::Source`] when the source is missing, empty, gone, or not what it was: nothing may be concluded from
/// such a scan, and nothing is remembered of it. [`Kind::State`] from `observations`; [`Kind::Stopped`] from `clock`.
pub fn scan(
    root: &Path,
    options: &ScanOptions,
    observations: &mut dyn Observations,
    clock: &mut dyn Clock,
) -> Result<Inventory> {
    scan_folder(&OnDisk::new(root, &options.ignore)?, root, options, observations, clock)
}

/// As [`scan`], wherever the folder is.
pub(crate) fn scan_folder(
    folder: &dyn Folder,
    root: &Path,
    options: &ScanOptions,
    observations: &mut dyn Observations,
    clock: &mut dyn Clock,
) -> Result<Inventory> {
    let ignore = Ignore::new(&options.ignore)?;
    // The walk stays on this thread: it is the one that is watched for hanging.
    let (remembered, look) = std::thread::scope(|scope| {
        let loading = scope.spawn(|| Memory::load(observations));
        let look = Look::at(folder, root, clock);
        (loading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), look)
    });
    let mut memory = remembered?;
    let mut pass = Pass { root, options, ignore: &ignore, memory: &mut memory, observations };
    let first = pass.judge(look?, clock)?;
    let Some(wait) = first.wait.filter(|_| options.wait) else { return Ok(first.inventory) };
    clock.sleep(wait.min(options.settle))?;
    let look = Look::at(folder, root, clock)?;
    Ok(pass.judge(look, clock)?.inventory)
}

/// What one walk found, and when: judged at the start, remembered at the end, so that the time between two looks is
/// never overstated.
pub(super) struct Look {
    pub tree: Box<dyn Tree>,
    start: i64,
    pub end: i64,
    pub found: Walk,
}

impl Look {
    pub fn at(folder: &dyn Folder, root: &Path, clock: &mut dyn Clock) -> Result<Self> {
        let tree = folder.open()?;
        let start = clock.now_ns();
        let found = tree.walk()?;
        tree.still_there()?;
        if found.files.is_empty() && found.doubtful.is_empty() {
            return Err(match found.unreadable.first() {
                Some((_, why)) => trouble::unreadable(root, found.unreadable.len(), why),
                None => trouble::empty(root),
            });
        }
        Ok(Self { tree, start, end: clock.now_ns(), found })
    }
}

/// What judging one look needs.
struct Pass<'a> {
    root: &'a Path,
    options: &'a ScanOptions,
    ignore: &'a Ignore,
    memory: &'a mut Memory,
    observations: &'a mut dyn Observations,
}

struct Judged {
    inventory: Inventory,
    /// How long until the files that do not change any more are settled; `None` when none is waited for.
    wait: Option<Duration>,
}

impl Pass<'_> {
    fn judge(&mut self, look: Look, clock: &mut dyn Clock) -> Result<Judged> {
        let Look { tree, start, end, mut found } = look;
        let place = tree.place();
        if !self.memory.same_root(&found, place) && !self.memory.holds_any(&found.files) {
            return Err(trouble::elsewhere(self.root));
        }
        let settle_ns = i64::try_from(self.options.settle.as_nanos()).unwrap_or(i64::MAX);
        let mut judge = Judge {
            now_ns: end,
            settle_ns,
            ignore: self.ignore,
            digest: &mut |path| match tree.open(path) {
                Ok(file) => file.digest(&mut || clock.proceed()),
                Err(_) => Ok(None),
            },
        };
        let Sight { files, absent, doubts, earlier } = self.memory.observe(&mut found, &mut judge)?;
        let mut inventory = Inventory {
            root: self.root.to_owned(),
            device: place.device,
            inode: place.inode,
            unsettled: std::mem::take(&mut found.doubtful),
            left_alone: std::mem::take(&mut found.left_alone),
            unreadable: std::mem::take(&mut found.unreadable),
            absent_since: absent,
            settle_ns,
            mounts: found.mounts.into_iter().map(|mount| (mount.path, mount.identity)).collect(),
            doubts,
            earlier,
            ignore: self.options.ignore.clone(),
            ..Inventory::default()
        };
        let mut wait_ns = None;
        if self.options.prove_absence {
            let newest = inventory.absent_since.values().max();
            let left = newest.map(|since| since.saturating_add(settle_ns).saturating_sub(end));
            wait_ns = left.filter(|&left| left > 0);
        }
        inventory.files.reserve(files.len());
        let observations = &*self.observations;
        for (path, facts, since_ns, opened) in files {
            if let Some(reason) = format::in_progress(&path) {
                let reason = reason.to_owned();
                inventory.unsettled.push(Unsettled { path, reason, cause: Cause::InProgress });
                continue;
            }
            // Asked only where it matters: the answer is in the targets' catalogs.
            let known = || observations.known_settled(&path).is_some_and(|known| unchanged(known, &facts));
            if !(settle_ns == 0 || start.saturating_sub(since_ns) >= settle_ns || known()) {
                // From the end of this pass on: the next one starts after the wait.
                let left = since_ns.saturating_add(settle_ns).saturating_sub(end).max(1);
                wait_ns = wait_ns.max(Some(left));
                let settle = seconds(self.options.settle);
                let reason = format!("it changed, or was first seen, less than {settle} ago");
                inventory.unsettled.push(Unsettled { path, reason, cause: Cause::Unsettled });
                continue;
            }
            match recognise::recognise(&*tree, &path, &facts, opened, &known, self.memory) {
                Ok((recognised, bad)) => {
                    if let Some(why) = bad {
                        inventory.bad.insert(path.clone(), why);
                    }
                    inventory.files.push(SourceFile {
                        path,
                        size: facts.size,
                        mtime_ns: facts.mtime_ns,
                        ctime_ns: facts.ctime_ns,
                        device: facts.device,
                        inode: facts.inode,
                        recognised,
                    });
                }
                // A look at it says otherwise.
                Err((cause, reason)) => inventory.unsettled.push(Unsettled { path, reason, cause }),
            }
        }
        tree.still_there()?;
        inventory.unsettled.sort_by(|a, b| a.path.cmp(&b.path));
        inventory.scanned_ns = end;
        self.memory.save(self.observations, place, end)?;
        let wait = wait_ns.map(|ns| Duration::from_nanos(u64::try_from(ns).unwrap_or(0)));
        Ok(Judged { inventory, wait })
    }
}

/// Whether a file is as it was when it was published: size, mtime, ctime. A change time of zero is not known.
fn unchanged(published: (u64, i64, i64), facts: &Facts) -> bool {
    let (size, mtime_ns, ctime_ns) = published;
    size == facts.size
        && same_mtime(mtime_ns, facts.mtime_ns)
        && (ctime_ns == facts.ctime_ns || facts.ctime_ns == 0)
}

fn seconds(time: Duration) -> String {
    if time.subsec_nanos() == 0 {
        format!("{} s", time.as_secs())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}
