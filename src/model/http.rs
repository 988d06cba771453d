//! A server that Roundsman asks over HTTPS: where its API is, whom it has to prove to be, and what it says of itself.

use std::fmt;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::Health;
use super::server::{SHOWN_CHARS, shown};

/// Longest address of an API.
const URL_BYTES: usize = 1000;
/// A handful of authorities in PEM.
const CA_BYTES: usize = 64 * 1024;

/// Why a part of an http server was refused. The text is for a person and says what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHttpServer {
    #[error("'{0}' is not the address of an API: use https://host[:port][/path]")]
    Url(String),
    #[error(
        "plain http would show the token to everybody on the way; give the https address of the API, \
         with a certificate authority of your own if need be"
    )]
    PlainHttp,
    #[error("a user, a password, a question mark or a # does not belong into the address of an API")]
    MoreThanAnAddress,
    #[error("'{0}' is not the SHA-256 of a certificate: use 64 hexadecimal digits, with or without colons")]
    Pin(String),
    #[error(
        "this is no certificate authority: paste its PEM text, which begins with -----BEGIN CERTIFICATE-----"
    )]
    Ca,
    #[error("a token has 1 to 4096 printable characters without blanks")]
    Token,
}

/// Where an API is: https, without credentials, query and fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiUrl(Url);

impl ApiUrl {
    /// # Errors
    /// [`InvalidHttpServer`] with what would be accepted; never repeats a password.
    pub fn parse(text: &str) -> Result<Self, InvalidHttpServer> {
        let text = text.trim();
        let host_of = |text: &str| shown(text.rsplit('@').next().unwrap_or_default(), SHOWN_CHARS);
        if text.len() > URL_BYTES {
            return Err(InvalidHttpServer::Url(host_of(text)));
        }
        let url = Url::parse(text).map_err(|_| InvalidHttpServer::Url(host_of(text)))?;
        match url.scheme() {
            "https" => {}
            "http" => return Err(InvalidHttpServer::PlainHttp),
            _ => return Err(InvalidHttpServer::Url(host_of(text))),
        }
        if !url.username().is_empty()
            || url.password().is_some()
            || url.query().is_some()
            || url.fragment().is_some()
        {
            return Err(InvalidHttpServer::MoreThanAnAddress);
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(InvalidHttpServer::Url(host_of(text)));
        }
        Ok(Self(url))
    }

    /// Name or address, an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default().trim_matches(['[', ']'])
    }

    /// The address of a resource of the API; `path` begins without a slash.
    #[must_use]
    pub fn at(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{path}"));
        url
    }
}

impl fmt::Display for ApiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// The SHA-256 of a server's certificate (DER), the only one that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificatePin(pub [u8; 32]);

impl CertificatePin {
    /// As `openssl x509 -fingerprint -sha256` prints it, or 64 digits.
    ///
    /// # Errors
    /// [`InvalidHttpServer::Pin`].
    pub fn parse(text: &str) -> Result<Self, InvalidHttpServer> {
        let refused = || InvalidHttpServer::Pin(shown(text, SHOWN_CHARS));
        let digits: String = text
            .rsplit('=')
            .next()
            .unwrap_or_default()
            .chars()
            .filter(|c| *c != ':' && !c.is_whitespace())
            .collect();
        if digits.len() != 64 || !digits.is_ascii() {
            return Err(refused());
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            let pair = digits.get(at * 2..at * 2 + 2).ok_or_else(refused)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| refused())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for CertificatePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let colon = if at == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

/// Where an http server's API is and how it proves itself; its token is kept apart, sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSource {
    pub url: ApiUrl,
    /// Authorities in PEM that are trusted in place of the system's.
    pub ca_pem: Option<String>,
    pub pin: Option<CertificatePin>,
}

/// The authorities of a form or a request, as far as their shape goes; whether they hold a certificate is seen when they
/// are used.
///
/// # Errors
/// [`InvalidHttpServer::Ca`].
pub fn ca_pem(text: &str) -> Result<String, InvalidHttpServer> {
    let text = text.trim().replace("\r\n", "\n");
    let is_pem = text.starts_with("-----BEGIN CERTIFICATE-----") && text.len() <= CA_BYTES;
    if is_pem { Ok(text) } else { Err(InvalidHttpServer::Ca) }
}

/// What `/health` says of one part: a database, a cache, the services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    pub name: String,
    /// What Roundsman understands of `status`; `unknown` where it knows no such word.
    #[serde(serialize_with = "as_word", deserialize_with = "from_word")]
    pub health: Health,
    /// As the API says it, cleaned.
    pub status: String,
    pub response_time_ms: Option<u64>,
    pub error_message: Option<String>,
    /// JSON, cut.
    pub error_details: Option<String>,
}

fn as_word<S: serde::Serializer>(health: &Health, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(health.name())
}

fn from_word<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Health, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// What `/health` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiHealth {
    /// Of the whole: its own word, or the worst of its components.
    #[serde(serialize_with = "as_word")]
    pub health: Health,
    /// Its own word, cleaned; empty where it says none.
    pub status: String,
    /// Status of the answer; 503 with a body is how many APIs say that they are not well.
    pub http_status: u16,
    pub version: Option<String>,
    pub components: Vec<Component>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_an_api_is_https_and_nothing_more() {
        let url = ApiUrl::parse(" https://api.example.net:8443/base/ ").unwrap();
        assert_eq!(url.to_string(), "https://api.example.net:8443/base");
        assert_eq!(url.at("health").as_str(), "https://api.example.net:8443/base/health");
        assert_eq!(ApiUrl::parse("https://[fd00::5]").unwrap().host(), "fd00::5");
        assert_eq!(ApiUrl::parse("http://api"), Err(InvalidHttpServer::PlainHttp));
        for bad in [
            "",
            "api.example.net",
            "ftp://api",
            "https://",
            "https://me:hunter2@api",
            "https://api?x=1",
            "https://api#x",
        ] {
            let error = ApiUrl::parse(bad).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_pin_is_read_as_openssl_prints_it() {
        let pin = CertificatePin([0xab; 32]);
        assert_eq!(CertificatePin::parse(&format!("sha256 Fingerprint={pin}")), Ok(pin));
        assert_eq!(CertificatePin::parse(&"aB".repeat(32)), Ok(pin));
        for bad in ["", "abc", &"zz".repeat(32), &"ü".repeat(32), &"ab".repeat(33)] {
            assert!(CertificatePin::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn authorities_are_pem() {
        let pem = "-----BEGIN CERTIFICATE-----\r\nAAAA\r\n-----END CERTIFICATE-----\r\n";
        assert_eq!(ca_pem(pem).unwrap(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----");
        assert!(ca_pem("-----BEGIN PRIVATE KEY-----").is_err());
    }
}
