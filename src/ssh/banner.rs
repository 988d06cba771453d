//! The first words of both sides, before anything is encrypted.
//!
//! Reads them by hand, because the library would wait for ever, and says only "unknown error" of what is not SSH.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::model::Layer;

use super::connect::{failed, late};
use super::error::{Cause, Endpoint, SshError};
use super::printable;
use super::wire::{Carrier, Kill, Wire};

pub(super) const CLIENT_ID: &str = concat!("SSH-2.0-Roundsman_", env!("CARGO_PKG_VERSION"));

/// What a server may say before its identification (RFC 4253, section 4.2, sets no limit; OpenSSH reads 8 KiB a line).
const MAX_GREETING_BYTES: usize = 8 * 1024;

/// Sends our identification and waits for the server's, of which `received` may hold a part. Ours goes first: an HTTP
/// server answers to it with an error that names it, and says nothing otherwise.
pub(super) async fn greet(
    at: &Endpoint,
    mut carrier: Carrier,
    mut received: BytesMut,
    limit: Duration,
    kill: &Kill,
) -> Result<(Wire, String), SshError> {
    let outcome = timeout(limit, hear_greeting(&mut carrier, &mut received)).await;
    let said = printable::line(&received, 120);
    let cause = match outcome {
        Ok(Ok((from, id))) => {
            let replay = Bytes::from(received).slice(from..);
            return Ok((Wire::new(carrier, replay, CLIENT_ID.len() + 2, kill.switch()), id));
        }
        Err(_) if received.is_empty() => return Err(late(at, Layer::Banner, limit)),
        Err(_) => Cause::NotSsh { said },
        Ok(Err(NoBanner::Other)) => Cause::NotSsh { said },
        Ok(Err(NoBanner::HungUp)) => Cause::HungUp { said },
        Ok(Err(NoBanner::Io(error))) if error.kind() == io::ErrorKind::ConnectionReset => {
            Cause::HungUp { said }
        }
        Ok(Err(NoBanner::Io(error))) => Cause::Broken { detail: error.to_string() },
    };
    Err(failed(at, Layer::Banner, cause))
}

enum NoBanner {
    Other,
    HungUp,
    Io(io::Error),
}

/// Where in `received` the identification line begins, and its text.
async fn hear_greeting<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    received: &mut BytesMut,
) -> Result<(usize, String), NoBanner> {
    socket.write_all(format!("{CLIENT_ID}\r\n").as_bytes()).await.map_err(NoBanner::Io)?;
    loop {
        match greeting(received) {
            Greeting::Ssh2 { from, id } => return Ok((from, id)),
            Greeting::Other => return Err(NoBanner::Other),
            Greeting::NotYet => {}
        }
        if socket.read_buf(received).await.map_err(NoBanner::Io)? == 0 {
            return Err(NoBanner::HungUp);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Greeting {
    NotYet,
    Ssh2 { from: usize, id: String },
    Other,
}

/// Source: RFC 4253, section 4.2 (other lines may come first) and 5.1 (`SSH-1.99-` speaks SSH 2 too).
fn greeting(received: &[u8]) -> Greeting {
    let mut from = 0;
    for line in received.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b"HTTP/") || (line.starts_with(b"SSH-1.") && !line.starts_with(b"SSH-1.99-")) {
            return Greeting::Other;
        }
        let complete = line.ends_with(b"\n");
        if complete && (line.starts_with(b"SSH-2.0-") || line.starts_with(b"SSH-1.99-")) {
            return Greeting::Ssh2 { from, id: printable::line(line, 255) };
        }
        if complete {
            from += line.len();
        }
    }
    if received.len() > MAX_GREETING_BYTES { Greeting::Other } else { Greeting::NotYet }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identification_is_found_after_other_lines_and_in_pieces() {
        let whole = b"Welcome\r\nSSH-2.0-OpenSSH_9.2p1 Debian\r\nkex";
        let id = "SSH-2.0-OpenSSH_9.2p1 Debian".to_owned();
        assert_eq!(greeting(whole), Greeting::Ssh2 { from: 9, id });
        for end in 0..38 {
            assert_eq!(greeting(&whole[..end]), Greeting::NotYet, "{end} bytes");
        }
    }

    #[test]
    fn other_protocols_and_endless_greetings_are_not_ssh() {
        assert_eq!(greeting(b"HTTP/1.1 400 Bad Request\r\n"), Greeting::Other);
        assert_eq!(greeting(b"SSH-1.5-old\r\n"), Greeting::Other);
        assert_eq!(greeting(&vec![b'x'; MAX_GREETING_BYTES + 1]), Greeting::Other);
        assert_eq!(greeting(&b"\n".repeat(MAX_GREETING_BYTES + 1)), Greeting::Other);
        assert_eq!(greeting(b"220 mail ESMTP\r\n"), Greeting::NotYet);
    }
}
