//! Carrying a plan out: supervisor, worker, transfer, blocks, verify, retry, pace, priority.

pub mod killpoint;
pub mod protocol;
