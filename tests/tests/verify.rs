//! Nothing is published below its target's verify level.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::os::unix::fs::PermissionsExt;

use offsite_tests::backends::{Backend, FtpsMlsd, Sftp};
use offsite_tests::fuse::Mirror;
use offsite_tests::sandbox::{Sandbox, debris, random_file, tree};

/// The byte is wrong on the disk and right in the page cache: only a read that goes to the disk notices.
#[test]
fn a_byte_flipped_beneath_the_page_cache_stops_the_publish() {
    for (verify, offset) in [("read-back", 5_000_000), ("auto", 100)] {
        let box_ = Sandbox::new();
        random_file(&box_.source().join("disk-b000.spf"), 12 << 20, 3);
        std::fs::create_dir(box_.path("mount")).unwrap();
        let mirror = Mirror::mount(&box_.path("a"), &box_.path("mount"));
        mirror.flip(".part", offset);
        let bad = box_.run(&["mount"]).args(["--verify", verify, "--attempts", "1"]).run();
        assert!(mirror.flipped() > 0, "the fault was never met");
        assert_ne!(bad.code, Some(0), "{verify}: {}", bad.all());
        assert!(tree(&box_.path("a")).is_empty(), "{verify}: published though damaged");
        mirror.stop_flipping();
        box_.run(&["mount"]).args(["--verify", verify]).run().expect(0);
        assert_eq!(tree(&box_.source()), tree(&box_.path("a")), "{verify}");
        assert!(debris(&box_.path("a")).is_empty());
    }
}

#[test]
fn a_level_the_target_cannot_reach_is_refused_before_anything_is_sent() {
    let box_ = Sandbox::new();
    random_file(&box_.source().join("disk-b000.spf"), 1 << 20, 3);
    let url = format!("chaos:{}", box_.text("a"));
    let ran = box_
        .offsite()
        .args([
            "run",
            "--source",
            &box_.text("source"),
            "--settle",
            "0",
            "--to",
            &url,
            "--verify",
            "read-back",
        ])
        .args(["--option", r#"capabilities={"staged_readable":false}"#])
        .run();
    assert_ne!(ran.code, Some(0));
    assert!(ran.all().contains("verify"), "{}", ran.all());
    assert!(tree(&box_.path("a")).is_empty() && debris(&box_.path("a")).is_empty());
}

#[test]
fn a_servers_own_digest_decides_where_the_configuration_asks_for_it() {
    let (server, box_) = (Sftp::start(), Sandbox::new());
    random_file(&box_.source().join("disk-b000.spf"), 5_000_001, 3);
    std::fs::write(box_.source().join("disk-b000.md5"), "").unwrap();
    let run = |script: &str| {
        let program = box_.path("sha256sum");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let reach = server.reach().option("server_digest_command", program.display());
        reach.run(&box_).args(["--verify", "digest", "--attempts", "1"]).run()
    };
    let bad = run("cat >/dev/null; printf '%064d  -\\n' 0");
    assert_ne!(bad.code, Some(0));
    assert!(bad.all().contains("digest of the staged file is not the source's"), "{}", bad.all());
    assert!(server.look(tree).is_empty(), "published though the digest differs");
    let good = run("exec sha256sum");
    assert!(good.all().contains(r#""level":"digest""#), "{}", good.all());
    assert_eq!(good.code, Some(0), "{}", good.all());
    assert_eq!(tree(&box_.source()), server.look(tree));
}

#[test]
fn an_ftp_server_with_digests_is_asked_for_one() {
    let (server, box_) = (FtpsMlsd::start(), Sandbox::new());
    random_file(&box_.source().join("disk one-b000.spf"), 5_000_001, 3);
    let ran = server.reach().run(&box_).args(["--verify", "digest"]).run();
    assert!(ran.all().contains(r#""level":"digest""#), "{}", ran.all());
    assert_eq!(ran.code, Some(0), "{}", ran.all());
    assert_eq!(tree(&box_.source()), server.look(tree));
}
