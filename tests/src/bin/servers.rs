//! The harness's servers as a program, for benches and for trying things by hand: `servers [sshd | sshd-account] [garage]
//! [vsftpd] [vsftpd-tls] [proftpd] [proftpd-tls] [apache] [samba]`; sshd and garage when none is named. `sshd-account` is
//! sshd for the tests' account, which has a password.
//!
//! Prints one line of JSON: for each server where it is and how to get in, secrets included (they are made up, and open
//! nothing but loopback ports). The line `reset` on standard input empties all of them, and is answered `done`. They end with the standard input.
#![allow(clippy::print_stdout)] // A program of the tests.

use std::io::BufRead;

use offsite_tests::servers::account::account;
use offsite_tests::servers::apache::{self, Apache, Login};
use offsite_tests::servers::ftp::{Settings, Tls};
use offsite_tests::servers::garage::Garage;
use offsite_tests::servers::proftpd::Proftpd;
use offsite_tests::servers::samba::{self, Samba};
use offsite_tests::servers::sshd::Sshd;
use offsite_tests::servers::vsftpd::Vsftpd;
use serde_json::{Value, json};

/// The FTP servers, by the name that asks for them.
enum Ftp {
    Vsftpd(Vsftpd),
    Proftpd(Proftpd),
}

impl Ftp {
    fn start(name: &str) -> Option<Self> {
        match name {
            "vsftpd" => Some(Self::Vsftpd(Vsftpd::start())),
            "vsftpd-tls" => Some(Self::Vsftpd(Vsftpd::with(Settings::tls(Tls::Explicit)))),
            "proftpd" => Some(Self::Proftpd(Proftpd::start())),
            "proftpd-tls" => Some(Self::Proftpd(Proftpd::with(Settings::tls(Tls::Explicit)))),
            _ => None,
        }
    }

    fn json(&self) -> Value {
        macro_rules! of {
            ($server:ident) => {
                json!({
                    "address": $server.address().to_string(), "user": $server.user(), "password": $server.password(),
                    "url": $server.url(), "data": $server.data(), "ca_file": $server.ca_file(),
                    "passive": [$server.ports().passive().0, $server.ports().passive().1],
                })
            };
        }
        match self {
            Self::Vsftpd(server) => of!(server),
            Self::Proftpd(server) => of!(server),
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Vsftpd(server) => server.reset(),
            Self::Proftpd(server) => server.reset(),
        }
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let named = |name: &str| wanted.iter().any(|w| w == name);
    let wants = |name: &str| wanted.is_empty() || named(name);
    let with_account = named("sshd-account");
    let mut sshd = if with_account { Some(Sshd::with_account()) } else { wants("sshd").then(Sshd::start) };
    let mut garage = wants("garage").then(Garage::start);
    let mut apache = named("apache").then(Apache::start);
    let mut samba = named("samba").then(Samba::start);
    let sshd_json = sshd.as_ref().map(|server| {
        json!({
            "address": server.address().to_string(), "host": server.host(), "port": server.port(), "user": server.user(),
            "url": server.url(), "data": server.data(), "key": server.key(), "known_hosts": server.known_hosts(),
            "password": with_account.then(|| account().password),
        })
    });
    let garage_json = garage.as_ref().map(|server| {
        let service = server.service();
        json!({
            "address": service.address.to_string(), "endpoint": service.endpoint(), "region": service.region,
            "bucket": service.bucket, "access_key_id": service.access_key, "secret_access_key": service.secret_key,
        })
    });
    let mut ftp: Vec<(&String, Ftp)> =
        wanted.iter().filter_map(|name| Some((name, Ftp::start(name)?))).collect();
    let mut found = json!({ "sshd": sshd_json, "garage": garage_json });
    for (name, server) in &ftp {
        found[name.as_str()] = server.json();
    }
    if let Some(server) = &apache {
        found["apache"] = json!({
            "address": server.address().to_string(), "tls_address": server.tls_address().to_string(),
            "user": apache::USER, "password": apache::PASSWORD, "basic": server.url(Login::Basic),
            "digest": server.url(Login::Digest), "tls": server.tls_url(Login::Digest), "data": server.data(),
            "ca_file": server.ca_file(), "fingerprint": server.fingerprint(),
        });
    }
    if let Some(server) = &samba {
        found["samba"] = json!({
            "address": server.address().to_string(), "user": server.user(), "password": samba::PASSWORD,
            "share": samba::SHARE, "url": server.url(), "data": server.data(),
        });
    }
    println!("{found}");
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match line.trim() {
            "reset" => {
                if let Some(server) = &mut sshd {
                    server.reset();
                }
                if let Some(server) = &mut garage {
                    server.reset();
                }
                ftp.iter_mut().for_each(|(_, server)| server.reset());
                if let Some(server) = &mut apache {
                    server.reset();
                }
                if let Some(server) = &mut samba {
                    server.reset();
                }
                println!("done");
            }
            // A proxy before the SSH server: its host key under the proxy's address.
            line => {
                match (line.strip_prefix("know ").and_then(|a| a.parse::<std::net::SocketAddr>().ok()), &sshd)
                {
                    (Some(address), Some(server)) => {
                        server.know(&address.ip().to_string(), address.port());
                        println!("done");
                    }
                    _ => println!("unknown: {line}"),
                }
            }
        }
    }
}
