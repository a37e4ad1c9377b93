//! What the FTP plugin makes of servers that are particular about TLS.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use offsite_tests::backends::{Backend, FtpsMlsd, Network};
use offsite_tests::sandbox::{Sandbox, random_file, tree};
use offsite_tests::servers::ftp::{Settings, Tls};
use offsite_tests::servers::proftpd::Proftpd;

/// More data connections than a server gives tickets for, and the next run, which begins anew.
fn carries(lines: &[&str]) {
    let settings = lines.iter().fold(Settings::tls(Tls::Explicit), |settings, line| settings.line(line));
    let backend = FtpsMlsd(Proftpd::with(settings));
    let box_ = Sandbox::new();
    for n in 0..30 {
        random_file(&box_.source().join(format!("s{n}-b000.spf")), 1 + 1000 * n, n);
    }
    // Nothing goes over this data connection.
    random_file(&box_.source().join("s0-b000.md5"), 0, 30);
    let reach = backend.through(backend.address());
    reach.check(&box_).run().expect(0);
    let run = || reach.run(&box_).args(["--first-wait", "50ms", "--attempts", "20"]).run().expect(0);
    run();
    assert_eq!(tree(&box_.source()), backend.look(tree));
    random_file(&box_.source().join("s3-b000.spf"), 4000, 99);
    run();
    assert_eq!(tree(&box_.source()), backend.look(tree));
}

#[test]
fn a_server_that_speaks_tls_1_2_only() {
    carries(&["TLSProtocol TLSv1.2"]);
}

#[test]
fn a_server_that_speaks_tls_1_3_only() {
    carries(&["TLSProtocol TLSv1.3"]);
}

#[test]
fn a_server_that_continues_no_sessions() {
    carries(&["TLSOptions NoSessionReuseRequired", "TLSSessionCache off"]);
}
