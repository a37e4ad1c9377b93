//! Which notices were said: each is shown once per run and target, however many workers say it (the one that asks for the
//! identity, the one that runs, and those that are started again). What concerns a job as a whole counts for each of its
//! targets.

use std::collections::BTreeMap;

use crate::notice::Notice;

/// More different ones of one target are shown without being remembered.
const MOST: usize = 1000;

#[derive(Debug, Default)]
pub struct Said(BTreeMap<(String, Option<String>), Vec<Notice>>);

impl Said {
    /// Whether it is new.
    pub fn is_new(&mut self, job: &str, target: Option<&str>, notice: &Notice) -> bool {
        let said = self.0.entry((job.to_owned(), target.map(str::to_owned))).or_default();
        if said.contains(notice) {
            return false;
        }
        if said.len() < MOST {
            said.push(notice.clone());
        }
        true
    }

    /// What was said of the job as a whole.
    pub fn of_job(&self, job: &str) -> Vec<Notice> {
        self.0.get(&(job.to_owned(), None)).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::NoticeCode;

    #[test]
    fn a_notice_is_new_once_for_each_target() {
        let mut said = Said::default();
        let guest = Notice::new(NoticeCode::PluginWarning, "guest");
        assert!(said.is_new("j", Some("a"), &guest) && said.is_new("j", Some("b"), &guest));
        assert!(!said.is_new("j", Some("a"), &guest));
        let lost = Notice::new(NoticeCode::StateLost, "lost");
        assert!(said.is_new("j", None, &lost) && !said.is_new("j", None, &lost));
        assert_eq!((said.of_job("j"), said.of_job("k")), (vec![lost], vec![]));
    }
}
