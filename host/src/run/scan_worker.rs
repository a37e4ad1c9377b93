//! The scan as a worker does it: the source is looked at in a process of its own, so that one stuck in a hanging mount
//! can be left behind, and the inventory goes to a file that all workers of the job read.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::outbox::Outbox;
use super::protocol::{Answer, Op, Request};
use super::stop::Stop;
use crate::catalog::JobDb;
use crate::error::{Error, Kind, Result};
use crate::notice::NoticeCode;
use crate::report::{Event, count, word};
use crate::source::{Cause, Inventory, ScanOptions, SystemClock, accept, scan};

/// Signs of life come this often while the scan gets on.
const EVERY: Duration = Duration::from_secs(5);

/// Scans and writes the inventory. `Look` remembers nothing.
pub fn run(request: &Request, outbox: &Arc<Outbox>, stop: &Arc<Stop>) -> Result<Answer> {
    let path = request
        .inventory
        .as_deref()
        .ok_or_else(|| Error::new(Kind::Usage, "the scan was not told where its inventory goes"))?;
    alive(outbox);
    let job = &request.job;
    let names: Vec<&str> = job.targets.iter().map(|t| t.name.as_str()).collect();
    let mut observations = if request.op == Op::Look {
        JobDb::peek(&request.state_dir, &job.name, &names)?
    } else {
        JobDb::open(&request.state_dir, &job.name, &names)?
    };
    if let Some(aside) = observations.moved_aside() {
        let text = format!("the job's database was damaged and was moved to {}", aside.display());
        outbox.notice(NoticeCode::StateLost, text);
    }
    // Only a target that syncs deletes, and it needs the proof.
    let prove_absence = job.targets.iter().any(|t| t.plan.sync);
    let ignore = job.ignore.clone();
    let options = ScanOptions { settle: job.settle, prove_absence, ignore, ..ScanOptions::default() };
    let mut told: Option<std::time::Instant> = None;
    let longest = job.settle;
    let (asked, out) = (Arc::clone(stop), Arc::clone(outbox));
    let mut clock = SystemClock(move || {
        if !longest.is_zero() && told.is_none_or(|told| told.elapsed() >= EVERY) {
            told = Some(std::time::Instant::now());
            let longest = crate::report::duration(longest);
            out.event(Event::Alive { note: format!("waiting up to {longest} for new files to settle") });
        }
        asked.is_set()
    });
    let inventory = if request.op == Op::Look {
        scan(&job.source, &options, &mut Forgetful(observations), &mut clock)?
    } else {
        let inventory = scan(&job.source, &options, &mut observations, &mut clock)?;
        observations.tidy()?;
        inventory
    };
    write(path, &inventory)?;
    let answer = Answer::Scanned {
        files: inventory.files.len() as u64,
        bytes: inventory.files.iter().map(|f| f.size).sum(),
        unsettled: inventory.unsettled.iter().filter(|u| u.cause != Cause::Unreadable).count() as u64,
        unreadable: inventory.unreadable.len() as u64,
    };
    super::left_to_the_exit(inventory);
    Ok(answer)
}

/// Adopts what is mounted in the source now.
pub fn accept_source(request: &Request, outbox: &Arc<Outbox>, stop: &Arc<Stop>) -> Result<Answer> {
    let Op::AcceptSource { place } = &request.op else {
        return Err(Error::new(Kind::Usage, "the worker was not told what to accept"));
    };
    alive(outbox);
    let job = &request.job;
    let mut observations = JobDb::open_beside(&request.state_dir, &job.name)?;
    let asked = Arc::clone(stop);
    let mut clock = SystemClock(move || asked.is_set());
    let accepted = accept(&job.source, place, &job.ignore, &mut observations, &mut clock)?;
    let place = if accepted.place.is_root() { ".".into() } else { accepted.place.display() };
    let mut what = format!("what is mounted at '{place}' of the source is accepted: {}", accepted.now);
    if accepted.missing > 0 {
        what.push_str(&format!(
            "; {} known there and not found {} as deleted when two scans, one settle time apart, do not find {}",
            count(accepted.missing, "file"),
            word(accepted.missing, "counts", "count"),
            word(accepted.missing, "it", "them")
        ));
    }
    Ok(Answer::Done { what })
}

/// Knows what the job's database knows, and adds nothing to it.
struct Forgetful(JobDb);

impl crate::source::Observations for Forgetful {
    fn load(&mut self) -> Result<crate::source::Remembered> {
        self.0.load()
    }

    fn save(&mut self, _: &crate::source::Learned) -> Result<()> {
        Ok(())
    }

    fn known_settled(&self, path: &offsite_plugin_api::TargetPath) -> Option<(u64, i64, i64)> {
        self.0.known_settled(path)
    }

    fn learned(&self) -> Vec<crate::source::RecordedFile> {
        self.0.learned()
    }

    fn known_paths(&self) -> Vec<offsite_plugin_api::TargetPath> {
        self.0.known_paths()
    }

    fn recorded(&self) -> Vec<crate::source::RecordedFile> {
        self.0.recorded()
    }
}

fn write(path: &Path, inventory: &Inventory) -> Result<()> {
    let io = |e: std::io::Error| Error::io("cannot write the inventory", path, e);
    let file = std::fs::File::options().write(true).truncate(true).open(path).map_err(io)?;
    let mut out = postcard::to_io(inventory, std::io::BufWriter::with_capacity(1 << 20, file))
        .map_err(|e| Error::new(Kind::State, "cannot write the inventory").because(e))?;
    std::io::Write::flush(&mut out).map_err(io)
}

/// The inventory that a scan wrote.
pub fn read(path: &Path) -> Result<Inventory> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("cannot read the inventory", path, e))?;
    postcard::from_bytes(&bytes).map_err(|e| Error::new(Kind::State, "cannot read the inventory").because(e))
}

/// Says that the scan gets on while its thread uses processor time. A thread that hangs in a dead mount uses none, and
/// the supervisor must see that.
fn alive(outbox: &Arc<Outbox>) {
    let outbox = Arc::clone(outbox);
    let thread = rustix::thread::gettid().as_raw_nonzero();
    std::thread::spawn(move || {
        let mut used = None;
        loop {
            std::thread::sleep(EVERY);
            let now = processor_time(thread.get());
            if now.is_none() || now != used {
                outbox.event(Event::Alive { note: "reading the source".to_owned() });
            }
            if now.is_none() {
                return;
            }
            used = now;
        }
    });
}

/// Ticks of processor time a thread has used: proc(5), fields 14 and 15 of `stat`.
fn processor_time(thread: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inventory_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("inventory");
        std::fs::write(&path, "something older and longer than what comes now ".repeat(99)).unwrap();
        let inventory = Inventory { root: "/backups".into(), settle_ns: 5, ..Inventory::default() };
        write(&path, &inventory).unwrap();
        assert_eq!(read(&path).unwrap(), inventory);
    }

    #[test]
    fn a_working_thread_is_seen_to_use_time() {
        let me = rustix::thread::gettid().as_raw_nonzero().get();
        let before = processor_time(me).unwrap();
        let start = std::time::Instant::now();
        while processor_time(me).unwrap() == before {
            assert!(start.elapsed() < Duration::from_secs(20), "a busy thread used no time");
        }
    }
}
