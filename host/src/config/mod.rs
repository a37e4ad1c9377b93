//! What the user wrote -> [`Job`] (resolved, validated).

mod job;

pub use job::{Bandwidth, Job, Priority, Retry, SecretRef, Target, Verify, Window};
