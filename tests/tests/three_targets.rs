//! The README's job: one source, a folder, an SFTP server and an S3 bucket at once.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::time::Duration;

use offsite_tests::backends::{Backend, Folder, Network, Reach, S3, Sftp};
use offsite_tests::program::{Offsite, Ran, wait_until};
use offsite_tests::proxy::{Direction, Proxy};
use offsite_tests::qemu;
use offsite_tests::sandbox::{Sandbox, debris, large_file, tree};
use serde_json::json;

struct Three {
    box_: Sandbox,
    folder: Folder,
    sftp: Sftp,
    s3: S3,
}

impl Three {
    fn start() -> Self {
        Self { box_: Sandbox::new(), folder: Folder::start(), sftp: Sftp::start(), s3: S3::start() }
    }

    /// Writes `offsite.toml`; secrets are in files that only the user reads.
    fn configure(&self, sftp: &Reach, more: &str) {
        let mut text = format!(
            "[[job]]\nname = \"daily\"\nsource = {}\nsettle = \"0s\"\n",
            json!(self.box_.text("source"))
        );
        for (name, reach) in [("attic", &self.folder.reach()), ("bank", sftp), ("cloud", &self.s3.reach())] {
            text += &format!("\n[[job.target]]\nname = \"{name}\"\nurl = {}\n{more}\n", json!(reach.url));
            text += "options = { ";
            text += &reach
                .options
                .iter()
                .map(|(k, v)| format!("{k} = {}", json!(v)))
                .collect::<Vec<_>>()
                .join(", ");
            text += " }\ncredentials = { ";
            let secret = |(key, value): &(String, String)| {
                let path = self.box_.path(&format!("{name}-{key}"));
                fs::write(&path, value).unwrap();
                fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
                format!("{key} = {{ file = {} }}", json!(path.to_string_lossy()))
            };
            text += &reach.secrets.iter().map(secret).collect::<Vec<_>>().join(", ");
            text += " }\n";
        }
        fs::write(self.box_.path("offsite.toml"), text).unwrap();
    }

    fn command(&self, what: &[&str]) -> Offsite {
        self.box_.offsite().args(["--config", &self.box_.text("offsite.toml")]).args(what)
    }

    #[track_caller]
    fn done(&self, ran: &Ran) {
        self.whole(&self.folder, ran);
        self.whole(&self.sftp, ran);
        self.whole(&self.s3, ran);
    }

    #[track_caller]
    fn whole(&self, backend: &impl Backend, ran: &Ran) {
        assert_eq!(tree(&self.box_.source()), backend.look(tree), "{}", ran.all());
        assert_eq!((backend.look(debris).len(), backend.unfinished()), (0, 0));
    }
}

#[test]
fn a_chain_reaches_folder_sftp_and_s3_and_each_is_shown_restorable() {
    let three = Three::start();
    qemu::chain(&three.box_.source(), 2);
    three.configure(&three.sftp.reach(), "");
    three.command(&["config", "validate"]).run().expect(0);
    three.command(&["check"]).run().expect(0);
    let ran = three.command(&["run", "--json"]).run().expect(0);
    three.done(&ran);
    qemu::extend(&three.box_.source(), 3);
    let ran = three.command(&["run", "--json"]).run().expect(0);
    three.done(&ran);
    for target in ["attic", "bank", "cloud"] {
        let chains = three.command(&["chains", "--json", "--target", target]).run().expect(0);
        assert!(chains.stdout.contains("inc3.qcow2"), "{target}: {}", chains.stdout);
    }
    three.command(&["status", "--max-age", "1h"]).run().expect(0);
}

/// A target that hangs holds up nobody: the others finish while it hangs, and it goes on when the line is back.
#[test]
fn one_frozen_target_never_holds_up_the_others() {
    let three = Three::start();
    large_file(&three.box_.source().join("disk-b000.spf"), 24 << 20, 5);
    let proxy = Proxy::start(three.sftp.address());
    proxy.freeze_at(Direction::Up, 4 << 20);
    three.configure(&three.sftp.through(proxy.address()), "retry = { attempts = 3, first_wait = \"100ms\" }");
    let run = three.command(&["run", "--json"]).start(&three.box_.path("home"));
    let finished = |target: &str| {
        run.stdout()
            .lines()
            .any(|line| line.contains("\"finished\"") && line.contains(&format!("\"{target}\"")))
    };
    let limit = Duration::from_secs(60);
    wait_until("the others finish", limit, || finished("attic") && finished("cloud"));
    wait_until("the line to the third freezes", limit, || proxy.frozen());
    assert!(!finished("bank"));
    proxy.freeze(false);
    let ran = run.wait(limit).expect(0);
    three.done(&ran);
}
