//! Where the databases are in the state directory: `<state>/<job>/job.db` and `<state>/<job>/<target>.db`.

use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

const SAFE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

fn component(name: &str) -> String {
    let text = utf8_percent_encode(name, SAFE).to_string();
    match text.strip_prefix('.') {
        Some(rest) => format!("%2E{rest}"),
        None => text,
    }
}

/// The catalog of a target. Names that are no file names are escaped; so is `job`, whose place is taken.
pub fn catalog_path(state_dir: &Path, job: &str, target: &str) -> PathBuf {
    let name = if target == "job" { "%6Aob".to_owned() } else { component(target) };
    state_dir.join(component(job)).join(format!("{name}.db"))
}

/// The job's own database.
pub fn job_path(state_dir: &Path, job: &str) -> PathBuf {
    state_dir.join(component(job)).join("job.db")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leaves_the_state_directory_or_takes_the_jobs_place() {
        let state = Path::new("/s");
        assert_eq!(catalog_path(state, "j", "nas"), Path::new("/s/j/nas.db"));
        assert_eq!(catalog_path(state, "..", "../x"), Path::new("/s/%2E./%2E.%2Fx.db"));
        assert_ne!(catalog_path(state, "j", "job"), job_path(state, "j"));
    }
}
