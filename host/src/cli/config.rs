//! `offsite config validate`: everything that is wrong with the configuration at once.

use super::args::{ConfigCommand, Global};
use super::session;
use std::path::Path;

use crate::config::{self, Job, MANIFEST_KEY, Problem, Problems};
use crate::plugin::Registry;
use crate::report;
use crate::report::exit::Exit;

pub fn main(global: &Global, command: &ConfigCommand) -> Exit {
    let ConfigCommand::Validate = command;
    let file = match config::find(global.config.as_deref()) {
        Ok(file) => file,
        Err(error) => return session::fail(global, &error),
    };
    match config::load(&file).and_then(|jobs| beyond(global, &file, jobs)) {
        Ok(jobs) => {
            let targets: usize = jobs.iter().map(|j| j.targets.len()).sum();
            if global.json {
                report::line(&serde_json::json!({ "version": 1, "file": file, "problems": [] }).to_string());
            } else {
                report::line(&format!(
                    "{}: {}, {}, nothing wrong",
                    file.display(),
                    report::count(jobs.len() as u64, "job"),
                    report::count(targets as u64, "target")
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

/// What the file alone does not tell: the plugins' own options, and secret files that everybody may read. Loads nothing
/// and opens no target.
fn beyond(global: &Global, file: &Path, jobs: Vec<Job>) -> Result<Vec<Job>, Problems> {
    let registry = Registry::discover(&global.plugin_dir);
    let mut found = Vec::new();
    for (job, target) in jobs.iter().flat_map(|j| j.targets.iter().map(move |t| (j, t))) {
        let key = format!("job.{}.target.{}", job.name, target.name);
        let line = config::line_of(file, &job.name, &target.name);
        let mut add = |key: String, what: String, hint: Option<String>| {
            found.push(Problem { file: Some(file.to_owned()), line, key, what, hint });
        };
        let of_plugin = target.secrets.keys().filter(|name| *name != MANIFEST_KEY);
        let names: Vec<&str> = of_plugin.map(String::as_str).collect();
        match registry.check_target(&target.url, &target.options, &names) {
            Err(error) => add(format!("{key}.url"), error.without_hint(), error.hint),
            Ok(wrong) => {
                for problem in wrong {
                    let table = if names.contains(&problem.key.as_str()) { "credentials" } else { "options" };
                    let part =
                        if problem.key.is_empty() { String::new() } else { format!(".{}", problem.key) };
                    add(format!("{key}.{table}{part}"), problem.what, problem.hint);
                }
            }
        }
        for (name, reference) in &target.secrets {
            if let Err((what, hint)) = config::resolve::fit(reference) {
                add(format!("{key}.credentials.{name}"), what, hint);
            }
        }
    }
    found.sort_by_key(|p| p.line);
    if found.is_empty() { Ok(jobs) } else { Err(Problems(found)) }
}
