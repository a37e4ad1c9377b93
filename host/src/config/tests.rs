use std::path::Path;

use super::{Problems, read};

fn problems(text: &str) -> Vec<String> {
    let read = read(Path::new("offsite.toml"), text, Path::new("/base"));
    let Problems(found) = read.expect_err("this configuration is wrong");
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn a_full_job_reads_as_documented() {
    let text = r#"
[[job]]
name = "daily"
source = "backups"
settle = "5s"
include_other = true

[[job.target]]
name = "nas"
url = "/mnt/nas"
credentials = { password = { env = "NAS_PW" }, key = { file = "key" }, pin = { command = ["pass", "nas"] } }
options = { region = "eu", nested = { a = [1, 2.5, true] } }
retry = { attempts = 3, first_wait = "500ms" }
priority = "low"
streams = 4
verify = "read-back"
sync = true
max_delete = "10%"
[job.target.bandwidth]
rate = "80MiB"
windows = [{ days = "mon-fri", from = "08:00", to = "18:00", rate = "10MiB" }, { days = "sun", rate = 0 }]
"#;
    let jobs = read(Path::new("offsite.toml"), text, Path::new("/base")).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&jobs).unwrap());
}

#[test]
fn everything_wrong_is_said_at_once_with_its_line() {
    let text = r#"
colour = "blue"
[[job]]
nmae = "daily"
source = 5
settle = "soon"
[[job.target]]
name = "a b"
url = "sftp://me:hunter2@host/"
credentials = { password = "hunter2", pin = { vault = "x" } }
options = { secret_key = "hunter2" }
retry = { attempts = 0, wait = "1s" }
priority = "lowest"
bandwidth = "fast"
verify = "readback"
[[job.target]]
name = "b"
url = "/b"
sync = true
policy = "new-sets"
filter = { kinds = ["bases"], include = ["[a"] }
subfolder = "../{user}"
max_delete = 2
streams = "many"
"#;
    let found = problems(text);
    assert!(!found.iter().any(|p| p.contains("hunter2")), "a secret is shown: {found:#?}");
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn a_fourth_target_asks_for_a_second_job() {
    let target = |n: u32| format!("[[job.target]]\nname = \"t{n}\"\nurl = \"/t{n}\"\n");
    let text = format!("[[job]]\nname = \"j\"\nsource = \"/s\"\n{}", (1..=4).map(target).collect::<String>());
    insta::assert_snapshot!(problems(&text).join("\n"));
}

#[test]
fn names_and_places_are_taken_once() {
    let text = r#"
[[job]]
name = "j"
source = "/s"
[[job.target]]
name = "a"
url = "/same"
[[job.target]]
name = "a"
url = "/same/"
[[job]]
name = "j"
source = "/s2"
[[job.target]]
url = "/other"
"#;
    insta::assert_snapshot!(problems(text).join("\n"));
}

#[test]
fn broken_syntax_is_told_with_its_line_and_an_empty_file_says_what_to_write() {
    insta::assert_snapshot!(problems("[[job]]\nname = \n[[job\n").join("\n"));
    insta::assert_snapshot!(problems("").join("\n"));
}

#[test]
fn flags_are_wrong_all_at_once_too() {
    let flags = super::adhoc::Flags {
        source: "/s".into(),
        to: ["/a", "/a", "ftp://me:hunter2@h/", "/d"].map(str::to_owned).to_vec(),
        credentials: vec!["password=hunter2".into()],
        options: vec!["password=hunter2".into(), "x".into()],
        bandwidth: Some("quick".into()),
        sync: true,
        kinds: vec!["base".into()],
        ..Default::default()
    };
    let Problems(found) = super::adhoc::job(&flags).unwrap_err();
    let text: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(!text.join("").contains("hunter2"), "a secret is shown: {text:#?}");
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn the_readmes_configuration_reads() {
    let readme = include_str!("../../../README.md");
    let text = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let jobs = read(Path::new("offsite.toml"), text, Path::new("/base")).unwrap();
    assert_eq!(jobs[0].targets.len(), 3);
    assert_eq!(jobs[0].targets[0].bandwidth.windows.len(), 1);
}
