//! What a run record keeps of what was wrong: enough to say why a run that ended is no success, and of bounded size.
//!
//! Nothing of it is read from text: codes, failures and counts are those of the events.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::notice::{Notice, NoticeCode, NoticeLevel};
use crate::words::shorten;

/// Kinds of notices kept, and failed images named, per run.
const NOTICES: usize = 10;
const IMAGES: usize = 5;
/// Characters kept of a notice, and of a failure's texts each.
const SENTENCE: usize = 500;
const TEXT: usize = 300;

/// What was wrong with one run of one target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wrong {
    /// What ended the run, or the first failure of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Error>,
    /// Warnings, and what was not done: the failing ones first, each code once.
    pub notices: Vec<Told>,
    /// The first images that failed; how many did is counted by the record.
    pub images: Vec<FailedImage>,
}

/// The notices of one code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub code: NoticeCode,
    pub level: NoticeLevel,
    pub times: u64,
    /// The first one's.
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedImage {
    pub image: String,
    pub failure: Error,
}

impl Wrong {
    /// Counts a notice in. One that is only good to know is left out.
    pub fn notice(&mut self, notice: &Notice) {
        if notice.level == NoticeLevel::Info {
            return;
        }
        let same = |told: &&mut Told| told.code == notice.code && told.level == notice.level;
        if let Some(told) = self.notices.iter_mut().find(same) {
            told.times += 1;
            return;
        }
        let text = shorten(&notice.text, SENTENCE);
        self.notices.push(Told { code: notice.code.clone(), level: notice.level, times: 1, text });
        self.notices.sort_by_key(|told| std::cmp::Reverse(told.level));
        // Beyond the bound it is the last warning that goes, never what was not done.
        self.notices.truncate(NOTICES);
    }

    /// Counts a failed image in.
    pub fn image(&mut self, image: &str, failure: &Error) {
        if self.images.len() < IMAGES {
            let image = shorten(image, TEXT);
            self.images.push(FailedImage { image, failure: failure.bounded(TEXT) });
        }
    }

    /// Keeps what ended the run.
    pub fn ended_by(&mut self, failure: Option<&Error>) {
        self.failure = failure.map(|error| error.bounded(TEXT));
    }

    /// Whether something that was asked for was not done.
    pub fn failing(&self) -> bool {
        self.failure.is_some()
            || !self.images.is_empty()
            || self.notices.iter().any(|told| told.level == NoticeLevel::Failing)
    }

    /// The worker is started again, and says again what is not done; what was warned of stays said.
    pub fn again(&mut self) {
        self.images.clear();
        self.failure = None;
        self.notices.retain(|told| told.level < NoticeLevel::Failing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn what_to_do_about_it_is_kept_of_a_long_warning() {
        let mut wrong = Wrong::default();
        let text = format!("at '{}' of the source: mount it again", "a long way down/".repeat(60));
        wrong.notice(&Notice::new(NoticeCode::MountMissing, text.clone()));
        let kept = &wrong.notices[0].text;
        assert!(kept.ends_with("of the source: mount it again"), "{kept}");
        let (head, tail) = kept.split_once(" … ").unwrap();
        assert!(text.contains(&format!("{head} ")) && text.contains(&format!(" {tail}")), "{kept}");
    }

    #[test]
    fn what_was_not_done_is_kept_first_and_the_size_is_bounded() {
        let mut wrong = Wrong::default();
        assert!(!wrong.failing());
        for code in NoticeCode::ALL.iter().filter(|c| c.level() < NoticeLevel::Failing).cycle().take(500) {
            wrong.notice(&Notice::new(code.clone(), "é".repeat(5000)));
        }
        assert!(!wrong.failing(), "warnings are no failure");
        for _ in 0..3 {
            wrong.notice(&Notice::new(NoticeCode::Refused, "3 images"));
        }
        assert!(wrong.failing());
        assert_eq!((&wrong.notices[0].code, wrong.notices[0].times), (&NoticeCode::Refused, 3));
        for _ in 0..500 {
            let error = Error::new(Kind::Io, "x".repeat(9000)).on("y".repeat(9000)).because("z").hint("h");
            wrong.image(&"n".repeat(9000), &error);
            wrong.ended_by(Some(&error));
        }
        let text = serde_json::to_string(&wrong).unwrap();
        assert!(text.len() < 20_000, "{} bytes", text.len());
        assert_eq!(serde_json::from_str::<Wrong>(&text).unwrap(), wrong);
        wrong.again();
        assert!(!wrong.failing() && !wrong.notices.is_empty());
    }
}
