//! Whose certificate is taken: one that an authority vouches for, and of these the pinned one, where one is pinned.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};

use super::HttpFailure;
use crate::model::{CertificatePin, HttpSource};

/// Authorities of one server.
const AUTHORITIES: usize = 32;

/// Judges the certificates of one server.
#[derive(Debug)]
pub(super) struct Certificates {
    authorities: Arc<dyn ServerCertVerifier>,
    pin: Option<CertificatePin>,
    /// The certificate that came in place of the pinned one.
    other: Mutex<Option<CertificatePin>>,
}

impl Certificates {
    pub(super) fn of(
        source: &HttpSource,
        system: &OnceLock<Arc<dyn ServerCertVerifier>>,
    ) -> Result<Self, HttpFailure> {
        let authorities = match &source.ca_pem {
            Some(pem) => given(pem)?,
            None => match system.get() {
                Some(known) => Arc::clone(known),
                None => {
                    let fresh = rustls_platform_verifier::Verifier::new(provider())
                        .map_err(|error| HttpFailure::NoAuthorities(error.to_string()))?;
                    Arc::clone(system.get_or_init(|| Arc::new(fresh)))
                }
            },
        };
        Ok(Self { authorities, pin: source.pin, other: Mutex::new(None) })
    }

    /// The certificate that was seen in place of the pinned one; said once.
    pub(super) fn take_other(&self) -> Option<String> {
        let other = self.other.lock().unwrap_or_else(PoisonError::into_inner).take();
        other.map(|seen| seen.to_string())
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Trusts these authorities and no others.
fn given(pem: &str) -> Result<Arc<dyn ServerCertVerifier>, HttpFailure> {
    const FIX: &str = "Paste the PEM text of the authority that signed the API's certificate.";
    let wrong = |reason: String| HttpFailure::Certificate { reason, fix: FIX };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()).take(AUTHORITIES) {
        let certificate = certificate.map_err(|error| wrong(format!("the authority is no PEM ({error})")))?;
        roots.add(certificate).map_err(|error| wrong(format!("the authority cannot be used ({error})")))?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    Ok(verifier.map_err(|error| wrong(format!("the authority cannot be used ({error})")))?)
}

/// TLS 1.2 and 1.3 with these certificates.
pub(super) fn client_config(certificates: &Arc<Certificates>) -> Result<ClientConfig, HttpFailure> {
    let verifier: Arc<dyn ServerCertVerifier> = Arc::<Certificates>::clone(certificates);
    let versions = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| HttpFailure::NoAuthorities(error.to_string()))?;
    // "Dangerous" is rustls' word for any verifier that is not its own; ours asks rustls' own first.
    Ok(versions.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

impl ServerCertVerifier for Certificates {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.authorities.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        let seen = CertificatePin(Sha256::digest(end_entity.as_ref()).into());
        if self.pin.is_some_and(|pin| pin != seen) {
            *self.other.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
            return Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// What an error of TLS means.
pub(super) fn failure(error: &rustls::Error) -> HttpFailure {
    let fix = match error {
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "It has expired: renew it on the server.",
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "It is not valid yet: compare the clocks of both machines.",
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "It was made for another name: give the address by that name.",
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "No authority that Roundsman trusts vouches for it: give the authority's certificate, or have the server send its whole chain."
        }
        rustls::Error::InvalidCertificate(_) => "Have it made anew, or give the authority that signed it.",
        other => return HttpFailure::NotTls(other.to_string()),
    };
    HttpFailure::Certificate { reason: error.to_string(), fix }
}
