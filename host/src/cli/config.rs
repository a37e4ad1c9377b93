//! `offsite config validate`: everything that is wrong with the configuration at once.

use super::args::{ConfigCommand, Global};
use super::session;
use crate::config::{self, Problems};
use crate::report;
use crate::report::exit::Exit;

pub fn main(global: &Global, command: &ConfigCommand) -> Exit {
    let ConfigCommand::Validate = command;
    let file = match config::find(global.config.as_deref()) {
        Ok(file) => file,
        Err(error) => return session::fail(global, &error),
    };
    match config::load(&file) {
        Ok(jobs) => {
            let targets: usize = jobs.iter().map(|j| j.targets.len()).sum();
            if global.json {
                report::line(&serde_json::json!({ "version": 1, "file": file, "problems": [] }).to_string());
            } else {
                report::line(&format!(
                    "{}: {} jobs, {targets} targets, nothing wrong",
                    file.display(),
                    jobs.len()
                ));
            }
            Exit::Done
        }
        Err(problems) => {
            if global.json {
                let Problems(list) = &problems;
                report::line(
                    &serde_json::json!({ "version": 1, "file": file, "problems": list }).to_string(),
                );
            } else {
                report::problems(&problems);
            }
            Exit::Usage
        }
    }
}
