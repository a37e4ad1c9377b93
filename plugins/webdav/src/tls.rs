//! Whom to trust: the system's certificates, a CA file beside them, or one pinned certificate. There is no way to trust anybody.

use std::sync::Arc;

use offsite_plugin_api::Result;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};

use super::config::Config;

/// Errors: `InvalidConfig` for a CA file that cannot be read or holds no certificate.
pub fn client_config(config: &Config) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring has ciphers for TLS 1.2 and 1.3");
    let verifier: Arc<dyn ServerCertVerifier> = match config.fingerprint {
        Some(fingerprint) => Arc::new(Pinned { fingerprint, provider }),
        None => offsite_plugin_tls::verifier(config.ca_file.as_deref(), provider)?,
    };
    let mut made = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    made.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(made)
}

/// Takes one certificate and no other; that the server has its key is still proved by the handshake.
#[derive(Debug)]
struct Pinned {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let hash = self.provider.cipher_suites.iter().find_map(|suite| match suite.tls13() {
            Some(suite) => Some(suite.common.hash_provider).filter(|h| h.output_len() == 32),
            None => None,
        });
        let hash = hash.expect("ring has a TLS 1.3 suite with SHA-256");
        if hash.hash(end_entity).as_ref() == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
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
