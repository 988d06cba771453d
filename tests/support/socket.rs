//! The listening half of a WebSocket client: enough to hear what the server says (RFC 6455).

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Longer messages than this would be a fault of the server.
const MESSAGE_LIMIT_BYTES: u64 = 4 * 1024 * 1024;
const TEXT: u8 = 1;
const CLOSE: u8 = 8;

/// An open WebSocket.
pub(crate) struct Socket {
    stream: BufReader<TcpStream>,
}

impl Socket {
    /// `identity` holds further header lines.
    pub(crate) async fn open(address: SocketAddr, path: &str, identity: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = BufReader::new(stream);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{identity}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "no upgrade: {head}");
        }
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self { stream }
    }

    /// The next text message. None: the server has closed.
    pub(crate) async fn text(&mut self) -> Option<String> {
        loop {
            let [first, second] = self.bytes().await?;
            let length = match second & 0x7f {
                126 => u64::from(u16::from_be_bytes(self.bytes().await?)),
                127 => u64::from_be_bytes(self.bytes().await?),
                short => u64::from(short),
            };
            assert!(length <= MESSAGE_LIMIT_BYTES && first & 0x80 != 0, "{length} bytes, flags {first:x}");
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.stream.read_exact(&mut payload).await.ok()?;
            match first & 0x0f {
                TEXT => return Some(String::from_utf8(payload).unwrap()),
                CLOSE => return None,
                _ => {}
            }
        }
    }

    async fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).await.ok()?;
        Some(bytes)
    }
}
