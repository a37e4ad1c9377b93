//! Carrying a plan out: supervisor, worker, transfer, blocks, verify, retry, pace, priority.

pub mod blocks;
pub mod call;
pub mod killpoint;
pub mod meter;
pub mod outbox;
pub mod pace;
pub mod priority;
pub mod protocol;
pub mod retry;
pub mod session;
pub mod source_reader;
pub mod stop;
