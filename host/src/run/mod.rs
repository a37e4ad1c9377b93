//! Carrying a plan out: supervisor, worker, transfer, blocks, verify, retry, pace, priority.
//!
//! Two processes. The supervisor (`supervisor`, `process`, `attend`, `progress`, `places`, `identity`, `scratch`) scans the source
//! once per job, starts one worker per target, hears it and restarts it; it touches neither source nor target. The
//! worker (`worker`, `open`) opens the plugin and runs one operation (`scan_worker`, `ops`, `replicate`); for a run
//! `execute` carries the plan out: `schedule` says what may happen next, `transfer` brings one file up (`resume` decides
//! what is already there, `source_reader` and `blocks` read and hash, `session` records checkpoints, `verify` proves),
//! and `target` publishes it. `call`, `meter`, `pace`, `retry`, `stop` and `outbox` are what every call into a plugin
//! passes through. `protocol` is what the two processes say to each other.

pub mod attend;
pub mod blocks;
pub mod call;
pub mod context;
mod crew;
pub mod digest;
mod ending;
pub mod execute;
pub mod forget;
pub mod identity;
pub mod killpoint;
pub mod lag;
pub mod left;
pub mod meter;
pub mod open;
pub mod ops;
pub mod outbox;
pub mod pace;
pub mod places;
pub mod priority;
pub mod process;
pub mod progress;
pub mod protocol;
pub mod replicate;
pub mod reread;
mod resume;
pub mod retry;
pub mod said;
pub mod scan_worker;
pub mod schedule;
mod scratch;
pub mod scrub;
pub mod session;
mod small_queue;
pub mod source_file;
pub mod source_reader;
pub mod stop;
pub mod supervisor;
#[cfg(test)]
mod tests;
pub mod transfer;
pub mod verify;
pub mod warnings;
pub mod worker;

/// What a worker need not give back before it ends: a million small pieces would only take time. Tests go on, and give
/// it back.
fn left_to_the_exit<T>(value: T) {
    if cfg!(test) {
        drop(value);
    } else {
        std::mem::forget(value);
    }
}
