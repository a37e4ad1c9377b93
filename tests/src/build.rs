//! Finds the `offsite` binary and the plugin libraries that the tests run, building them first.
//!
//! A test binary does not depend on a plugin as a crate (that would link it in), so cargo does not build the
//! libraries for it. They are built here, by cargo itself, into the target directory and profile that the tests
//! run from: once per process, and under nextest, where each test is a process, once per run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};

/// What is built: the binary and every plugin. The whole workspace, because that is what `tests/run` builds: a
/// narrower choice would unify features otherwise and build everything once more.
const PROGRAMS: &[&str] = &["--workspace"];

/// The directory of the built artefacts (`target/debug`): `offsite` and `liboffsite_plugin_*.so` are in it.
pub fn artefacts() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let directory = profile_directory();
        once_a_run(&directory, "programs", PROGRAMS);
        directory
    })
}

/// The `offsite` program.
pub fn offsite() -> PathBuf {
    artefacts().join("offsite")
}

/// The library of the plugin with this id: `folder`, `chaos`.
pub fn plugin(id: &str) -> PathBuf {
    artefacts().join(format!("liboffsite_plugin_{id}.so"))
}

/// The library of one of `fixtures/plugins`: `echo`, `no_layout`.
pub fn fixture(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    let directory = artefacts();
    BUILT.get_or_init(|| once_a_run(directory, "fixtures", &["--package", "offsite-tests", "--examples"]));
    directory.join("examples").join(format!("lib{name}.so"))
}

/// The repository's top directory.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate is inside the workspace")
}

/// A cargo command in the repository, free of what the outer cargo set for this process: build scripts (ring's) watch
/// some of it, and would be run again with all that depends on them.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository());
    for (name, _) in std::env::vars_os() {
        let outer = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"];
        if outer.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            command.env_remove(name);
        }
    }
    command
}

/// Builds what `arguments` name, unless this run of nextest has done so.
fn once_a_run(directory: &Path, what: &str, arguments: &[&str]) {
    let lock = std::fs::File::create(directory.join(".offsite-tests.lock")).expect("a lock file can be made");
    flock(&lock, FlockOperation::LockExclusive).expect("a lock can be waited for");
    let stamp = directory.join(format!(".offsite-tests.{what}"));
    let run = std::env::var("NEXTEST_RUN_ID").ok();
    if run.is_some() && std::fs::read_to_string(&stamp).ok() == run {
        return;
    }
    build(directory, arguments);
    if let Some(run) = run {
        std::fs::write(&stamp, run).expect("the target directory is writable");
    }
}

fn build(directory: &Path, arguments: &[&str]) {
    let target = directory.parent().expect("a profile's directory is inside the target directory");
    let profile = match directory.file_name().and_then(|n| n.to_str()) {
        None | Some("debug") => "dev",
        Some(name) => name,
    };
    let mut command = cargo();
    command.args(["build", "--quiet", "--locked", "--profile", profile, "--target-dir"]).arg(target);
    let output = command.args(arguments).output().expect("cargo can be started");
    assert!(output.status.success(), "building failed:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Where this test's executable was built: its directory, or that one's parent for `deps` and `examples`.
fn profile_directory() -> PathBuf {
    let executable = std::env::current_exe().expect("a process knows its executable");
    let directory = executable.parent().expect("an executable is in a directory");
    let inner = matches!(directory.file_name().and_then(|n| n.to_str()), Some("deps" | "examples"));
    if inner {
        directory.parent().expect("`deps` is in a directory").to_owned()
    } else {
        directory.to_owned()
    }
}
