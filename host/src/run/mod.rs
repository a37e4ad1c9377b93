//! Carrying a plan out: supervisor, worker, transfer, blocks, verify, retry, pace, priority.

pub mod protocol;
