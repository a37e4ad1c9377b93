//! The WebDAV backend keeps every promise of the contract on a real Apache mod_dav, with both logins, without and with TLS.
#![allow(clippy::unwrap_used)]

use offsite_plugin_api::conformance::assert_conforms;
use offsite_plugin_api::{Secrets, Zeroizing};
use offsite_plugin_webdav::WebDav;
use offsite_tests::servers::apache::{Apache, Login, PASSWORD};
use serde_json::{Value, json};

fn secrets(password: &str) -> Secrets {
    Secrets(vec![("password".to_owned(), Zeroizing::new(password.to_owned()))])
}

fn open(url: &str, options: &Value) -> WebDav {
    WebDav::open_at(url, options, &secrets(PASSWORD)).unwrap()
}

#[test]
fn apache_with_basic_login_conforms() {
    let server = Apache::start();
    assert_conforms(&|| Box::new(open(&server.url(Login::Basic), &json!({}))));
}

#[test]
fn apache_with_digest_login_over_tls_conforms() {
    let server = Apache::start();
    let options = json!({ "ca_file": server.ca_file() });
    assert_conforms(&|| Box::new(open(&server.tls_url(Login::Digest), &options)));
}
