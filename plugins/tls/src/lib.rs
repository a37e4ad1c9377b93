//! Whom the plugins trust over TLS: the system's certificates, and those of a file beside them. There is no way to trust
//! anybody.
//!
//! A server's self-signed certificate may be in the file. Most tools mark such a certificate as a CA's (`openssl req -x509`
//! does), and a CA's may not be a server's (RFC 5280 4.2.1.9): one that the user named himself is taken all the same, for
//! the names in it and as long as it is valid.

use std::sync::Arc;

use offsite_plugin_api::{Error, ErrorKind, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};

/// A verifier for clients. `ca_file`: PEM certificates to trust beside the system's.
///
/// Errors: `InvalidConfig` for a file that cannot be read or holds no certificate.
pub fn verifier(ca_file: Option<&str>, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>> {
    let mut roots = RootCertStore::empty();
    // A certificate the system keeps and rustls cannot read is none.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let named = ca_file.map(certificates).transpose()?.unwrap_or_default();
    for certificate in &named {
        roots.add(certificate.clone()).map_err(|e| {
            let file = ca_file.unwrap_or_default();
            invalid(format!("the ca_file '{file}' holds a certificate that cannot be used: {e}"))
        })?;
    }
    // It refuses to be made where nobody is trusted.
    let chains = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone()).build().ok();
    Ok(Arc::new(Verifier { chains, named, provider }))
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|e| invalid(format!("the ca_file '{file}' cannot be read: {e}")))?;
    if found.is_empty() {
        return Err(invalid(format!(
            "the ca_file '{file}' holds no certificate; it must be PEM (-----BEGIN CERTIFICATE-----)"
        )));
    }
    Ok(found)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

#[derive(Debug)]
struct Verifier {
    /// `None`: this system trusts nobody, and no file was given.
    chains: Option<Arc<WebPkiServerVerifier>>,
    /// What the user named.
    named: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

/// Whether a valid certificate was refused for being a CA's. The library looks at that last, after the time.
fn is_a_cas(error: &rustls::Error) -> bool {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => {
            matches!(why.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
        }
        _ => false,
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chains) = &self.chains else { return Err(CertificateError::UnknownIssuer.into()) };
        match chains.verify_server_cert(certificate, others, name, ocsp, now) {
            Err(error) if is_a_cas(&error) => {
                if !self.named.contains(certificate) {
                    return Err(CertificateError::UnknownIssuer.into());
                }
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;
    use std::time::Duration;

    use rustls::crypto::ring;

    use super::*;

    /// Self-signed, as the tool makes it by default: marked as a CA's. PEM.
    fn self_signed(dir: &Path, name: &str) -> String {
        let file = dir.join(format!("{name}.pem")).display().to_string();
        let key = dir.join("key").display().to_string();
        let subject = ["-subj", "/CN=nas", "-addext", "subjectAltName=DNS:nas.example", "-days", "2"];
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args(["-keyout", &key, "-out", &file])
            .args(subject)
            .output()
            .expect("openssl is needed: apt install openssl");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        file
    }

    fn verify(ca_file: Option<&str>, shown: &str, name: &str, days: u64) -> Result<(), rustls::Error> {
        let verifier = verifier(ca_file, Arc::new(ring::default_provider())).unwrap();
        let certificate = CertificateDer::from_pem_file(shown).unwrap();
        let name = ServerName::try_from(name).unwrap();
        let at = UnixTime::now().as_secs() + days * 86_400;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        verifier.verify_server_cert(&certificate, &[], &name, &[], at).map(drop)
    }

    #[test]
    fn a_self_signed_certificate_is_trusted_where_the_user_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (self_signed(dir.path(), "one"), self_signed(dir.path(), "other"));
        assert_eq!(verify(Some(&one), &one, "nas.example", 0), Ok(()));
        let refused = |result: Result<(), rustls::Error>| match result {
            Err(rustls::Error::InvalidCertificate(why)) => why,
            other => panic!("{other:?}"),
        };
        for file in [None, Some(other.as_str())] {
            assert_eq!(refused(verify(file, &one, "nas.example", 0)), CertificateError::UnknownIssuer);
        }
        let why = refused(verify(Some(&one), &one, "other.example", 0));
        assert!(matches!(why, CertificateError::NotValidForNameContext { .. }), "{why:?}");
        let why = refused(verify(Some(&one), &one, "nas.example", 3));
        assert!(matches!(why, CertificateError::ExpiredContext { .. }), "{why:?}");
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "no certificate").unwrap();
        let provider = Arc::new(ring::default_provider());
        for file in [empty.to_str().unwrap(), "/does/not/exist"] {
            let error = verifier(Some(file), provider.clone()).unwrap_err();
            assert!(*error.kind() == ErrorKind::InvalidConfig && error.to_string().contains(file), "{error}");
        }
    }
}
