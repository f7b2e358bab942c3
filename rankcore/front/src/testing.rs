//! What the tests of the front share: a front on loopback, and a client that writes its frames by hand.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::identity::Quota;
use crate::limits::Limits;
use crate::{Front, Settings};

/// Longer than anything takes that happens at all.
pub const SOON: Duration = Duration::from_secs(30);

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A front that answers on a free port, with `upstream` behind it and no engine.
pub fn front(upstream: &Path, change: impl FnOnce(&mut Settings)) -> Front {
    let mut settings = Settings {
        upstream: Arc::from(upstream),
        threads: 1,
        request_bytes_max: 1 << 20,
        response_bytes_max: 1 << 20,
        requests_in_flight_max: 64,
        connections_max: 16,
        limits: Limits::default(),
        default_us: 200_000,
        max_us: 10_000_000,
        tls: None,
        identity: None,
        quota: Quota::default(),
        look_every: Duration::from_secs(1),
    };
    change(&mut settings);
    let front = Front::bind("127.0.0.1:0", settings).expect("a free port");
    front.start().expect("a thread");
    front
}

/// A frame's bytes. Source: RFC 9113, section 4.1.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block with the method and path of a call, every field a literal. Source: RFC 7541, section 6.2.2.
pub fn call(path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        ("content-type", "application/grpc"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("a short text"));
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A frame that came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a RST_STREAM or a GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        let code = self.payload[at..at + 4].try_into().expect("four bytes");
        u32::from_be_bytes(code)
    }
}

/// A client that does only what it is told.
pub struct Client(pub TcpStream);

impl Client {
    /// Connects, and says nothing.
    pub fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the front listens");
        stream.set_read_timeout(Some(SOON)).expect("a socket");
        stream.set_write_timeout(Some(SOON)).expect("a socket");
        Self(stream)
    }

    /// Connects and says what every client does.
    pub fn new(address: SocketAddr) -> Self {
        let mut client = Self::silent(address);
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &[]));
        client.write(&hello);
        client
    }

    /// Writes; the front may have closed the connection.
    pub fn write(&mut self, data: &[u8]) {
        let _ = self.0.write_all(data);
    }

    /// The next frame; `None`: the connection has ended, in whatever way.
    pub fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).map_err(ended).ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).map_err(ended).ok()?;
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
            payload,
        })
    }

    /// The next frame of that kind, for which it passes others over. Panics where the connection ends before.
    pub fn expect(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().expect("the connection is open");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Every frame until the connection ends.
    pub fn rest(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

/// A connection that neither answers nor ends in time fails the test.
fn ended(error: io::Error) {
    assert!(
        !matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        ),
        "nothing came: {error}"
    );
}
