//! A worker's CPU and I/O priority, from the target's `priority`.
//!
//! Linux keeps both per thread, and new threads inherit them: set before any other thread is started.

use ioprio::{BePriorityLevel, Class, Pid, Target};

use crate::config::Priority;

/// Sets nice and I/O class of the calling thread. Returns what could not be had, in words.
///
/// low: nice 10, best effort 7; normal: as started; high: nice -5 and best effort 0, where the system permits.
pub fn apply(priority: Priority) -> Option<String> {
    let (nice, class) = match priority {
        Priority::Normal => return None,
        Priority::Low => (10, Class::BestEffort(BePriorityLevel::lowest())),
        Priority::High => (-5, Class::BestEffort(BePriorityLevel::highest())),
    };
    let mut missing = Vec::new();
    if let Err(e) = rustix::process::setpriority_process(None, nice) {
        missing.push(format!("nice {nice} ({e})"));
    }
    let own = Target::Process(Pid::from_raw(0));
    if let Err(e) = ioprio::set_priority(own, ioprio::Priority::new(class)) {
        missing.push(format!("I/O priority ({e})"));
    }
    (!missing.is_empty()).then(|| {
        format!(
            "the system does not permit priority '{priority:?}': {}; going on without",
            missing.join(", ")
        )
        .to_lowercase()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_priority_is_seen_in_the_thread_and_its_children() {
        std::thread::spawn(|| {
            assert_eq!(apply(Priority::Low), None);
            std::thread::spawn(|| {
                assert_eq!(rustix::process::getpriority_process(None).unwrap(), 10);
                let io = ioprio::get_priority(Target::Process(Pid::from_raw(0))).unwrap();
                assert_eq!(io, ioprio::Priority::new(Class::BestEffort(BePriorityLevel::lowest())));
            })
            .join()
            .unwrap();
        })
        .join()
        .unwrap();
    }
}
