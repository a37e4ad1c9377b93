//! Carrying a plan out: supervisor, worker, transfer, blocks, verify, retry, pace, priority.

pub mod attend;
pub mod blocks;
pub mod call;
pub mod killpoint;
pub mod meter;
pub mod outbox;
pub mod pace;
pub mod places;
pub mod priority;
pub mod process;
pub mod progress;
pub mod protocol;
pub mod retry;
pub mod scan_worker;
mod scratch;
pub mod scrub;
pub mod session;
pub mod source_reader;
pub mod stop;
pub mod supervisor;
pub mod worker;
