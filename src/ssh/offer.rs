//! What is offered to a server in the key exchange, and the library's limits for the connection after it.
//!
//! Nothing broken is offered, so a server that has nothing else is told by name; a SHA-1 signature of the host is the one exception.

use std::borrow::Cow;
use std::time::Duration;

use rand::RngExt as _;
use russh::client::{self, GexParams};
use russh::keys::Algorithm;
use russh::{Limits, Preferred, SshId, cipher, kex};

use super::banner::CLIENT_ID;
use super::hostkey::{HostKey, KNOWN_ALGORITHMS};

/// A dead peer is noticed after (`KEEPALIVE_MISSES` + 1) times this.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_MISSES: usize = 2;

/// The library's only timer over writes that are stuck; longer than the keepalives need to find a dead peer.
const INACTIVITY: Duration = Duration::from_secs(75);

/// Keys are exchanged again after this many hours, spread so that a fleet does not do it all at once.
const REKEY_HOURS: std::ops::Range<f64> = 6.0..12.0;
/// The most that one key may carry; the library allows no more (RFC 4253, section 9).
const REKEY_BYTES: usize = 1 << 30;

/// Largest packet that a server may send. The library keeps a buffer of this size for each connection; the default of
/// 32 KiB would be a sixth of all memory with thousands of servers, and a smaller packet costs a download little.
const MAX_PACKET_BYTES: u32 = 8 * 1024;

/// Smallest, wanted and largest group where the server chooses one (RFC 4419). The library wants 8192 bits, which are slow on both
/// sides; 3072 are as strong as AES-128 (NIST SP 800-57).
const GROUP_BITS: (usize, usize, usize) = (2048, 3072, 8192);

/// `certificates`: whether host certificates are asked for, ahead of plain keys.
pub(super) fn config(pinned: Option<&HostKey>, certificates: bool) -> client::Config {
    let key = HostKey::algorithms_first(pinned, KNOWN_ALGORITHMS);
    let host_key_certificates = if certificates { certified(&key) } else { Vec::new() };
    let hours = rand::rng().random_range(REKEY_HOURS);
    client::Config {
        client_id: SshId::Standard(Cow::Borrowed(CLIENT_ID)),
        limits: Limits::new(REKEY_BYTES, REKEY_BYTES, Duration::from_secs_f64(hours * 3600.0)),
        keepalive_interval: Some(KEEPALIVE_INTERVAL),
        keepalive_max: KEEPALIVE_MISSES,
        inactivity_timeout: Some(INACTIVITY),
        maximum_packet_size: MAX_PACKET_BYTES,
        gex: GexParams::new(GROUP_BITS.0, GROUP_BITS.1, GROUP_BITS.2).unwrap_or_default(),
        preferred: Preferred {
            kex: Cow::Borrowed(KEX),
            key: Cow::Owned(key),
            host_key_certificates: Cow::Owned(host_key_certificates),
            cipher: Cow::Borrowed(if has_aes() { AES_FIRST } else { CHACHA_FIRST }),
            ..Preferred::DEFAULT
        },
        ..client::Config::default()
    }
}

/// Those whose certificates are taken: all but SHA-1, since whoever signs certificates has a daemon that knows better.
fn certified(algorithms: &[Algorithm]) -> Vec<Algorithm> {
    let old = Algorithm::Rsa { hash: None };
    algorithms.iter().filter(|algorithm| **algorithm != old).cloned().collect()
}

/// Best first, and the quick ones before the slow ones. The library leaves out the NIST curves, which some appliances have alone.
const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::ECDH_SHA2_NISTP384,
    kex::ECDH_SHA2_NISTP521,
    kex::DH_GEX_SHA256,
    kex::DH_G14_SHA256,
    kex::DH_G15_SHA512,
    kex::DH_G16_SHA512,
    kex::DH_G17_SHA512,
    kex::DH_G18_SHA512,
    // Not key exchanges, but what RFC 8308 and OpenSSH's strict key exchange are announced with.
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];

const AES_FIRST: &[cipher::Name] = &[
    cipher::AES_128_GCM,
    cipher::AES_256_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];
const CHACHA_FIRST: &[cipher::Name] = &[
    cipher::CHACHA20_POLY1305,
    cipher::AES_128_GCM,
    cipher::AES_256_GCM,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}
