//! A small WebSocket client: enough to hear what the server says, and to say one thing (RFC 6455).

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};

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
        Self::upgrade(TcpStream::connect(address).await.unwrap(), address, path, identity).await
    }

    /// With the smallest receive buffer and short segments, on which the kernel bases the sender's buffer: without
    /// them, over a megabyte lies unread before a sender notices.
    pub(crate) async fn open_narrow(address: SocketAddr, path: &str, identity: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(1).unwrap();
        socket2::SockRef::from(&socket).set_tcp_mss(536).unwrap();
        Self::upgrade(socket.connect(address).await.unwrap(), address, path, identity).await
    }

    async fn upgrade(stream: TcpStream, address: SocketAddr, path: &str, identity: &str) -> Self {
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

    /// Sends one text message, masked as a client must. The server may have gone: then there is nobody to tell.
    pub(crate) async fn say(&mut self, text: &[u8]) {
        const MASK: [u8; 4] = [1, 2, 3, 4];
        let mut frame = vec![0x80 | TEXT, 0x80 | 127];
        frame.extend((text.len() as u64).to_be_bytes());
        frame.extend(MASK);
        frame.extend(text.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        drop(self.stream.write_all(&frame).await);
    }

    async fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).await.ok()?;
        Some(bytes)
    }
}
