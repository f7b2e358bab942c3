//! What clients send to the front: a connection's bytes, and a call's message and metadata.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use rankcore_front::budget::{DEADLINE_KEY, PeerClock, TIMEOUT_KEY, Told};
use rankcore_front::identity::Quota;
use rankcore_front::limits::Limits;
use rankcore_front::message::{Encoding, Incoming, frame};
use rankcore_front::status::{Code, Refusal};
use rankcore_front::{Front, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::timeout;

/// Longer than any conversation takes.
const SOON: Duration = Duration::from_secs(10);
/// Bytes that may be on their way in one direction.
const PIPE_BYTES: usize = 64 * 1024;
/// What the front may say for each byte that it hears. The shortest call is a frame of 14 bytes, its refusal 400.
const ANSWER_FACTOR: usize = 64;

/// A front that nobody can call from outside, with no engine and no server behind it.
static FRONT: LazyLock<Front> = LazyLock::new(|| {
    let settings = Settings {
        upstream: Arc::from(Path::new("/dev/null")),
        threads: 1,
        request_bytes_max: 1 << 16,
        response_bytes_max: 1 << 16,
        requests_in_flight_max: 16,
        connections_max: 1,
        limits: Limits::default(),
        default_us: 200_000,
        max_us: 1_000_000,
        tls: None,
        identity: None,
        quota: Quota::default(),
        look_every: SOON,
    };
    Front::bind("127.0.0.1:0", settings).expect("a free port")
});

/// The bytes of one connection. The front must end it once its client has, and answer in whole frames.
pub fn http2(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let said = runtime.block_on(async {
        let (client, server) = duplex(PIPE_BYTES);
        let (mut reads, mut writes) = tokio::io::split(client);
        let talking = tokio::spawn(FRONT.converse(server, IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let data = data.to_vec();
        tokio::spawn(async move {
            // The front may hang up before it has heard all.
            let _ = writes.write_all(&data).await;
            let _ = writes.shutdown().await;
        });
        let mut said = Vec::new();
        let end = timeout(SOON, async {
            let _ = reads.read_to_end(&mut said).await;
            talking.await
        });
        end.await
            .expect("a conversation ends")
            .expect("the front holds");
        said
    });
    assert!(said.len() <= PIPE_BYTES + ANSWER_FACTOR * data.len());
    let mut rest = &said[..];
    while !rest.is_empty() {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        rest = &rest[9 + length..];
    }
}

/// The first bytes choose encoding, limit and size of the parts that the message comes in. Three lines of metadata follow:
/// gRPC's timeout, the absolute deadline, an encoding's name. The rest is the message as framed.
pub fn grpc(data: &[u8]) {
    let [encoding, bytes_max, size, rest @ ..] = data else {
        return;
    };
    let mut lines = rest.splitn(4, |byte| *byte == b'\n');
    let [timeout, deadline, name, framed] = [(); 4].map(|()| lines.next().unwrap_or_default());
    metadata(timeout, deadline, name);
    let encoding =
        [Encoding::Identity, Encoding::Deflate, Encoding::Gzip][usize::from(*encoding) % 3];
    let bytes_max = usize::from(*bytes_max) * 8;
    let mut incoming = Incoming::new(bytes_max);
    let pushed = framed
        .chunks(usize::from(*size).max(1))
        .try_for_each(|part| incoming.push(Bytes::copy_from_slice(part)));
    let message = match pushed.and_then(|()| incoming.finish(encoding)) {
        Ok(message) => message,
        Err(refusal) => {
            let code = refusal.status().code;
            assert!(matches!(code, Code::Internal | Code::ResourceExhausted));
            return;
        }
    };
    assert!(message.len() <= bytes_max);
    if framed[0] == 0 {
        let (begun, ending) = message.split_at(message.len() / 2);
        let again = frame(begun, ending, bytes_max).expect("it fitted");
        assert_eq!(again, framed);
    }
}

fn metadata(timeout: &[u8], deadline: &[u8], name: &[u8]) {
    let mut headers = HeaderMap::new();
    for (key, value) in [(TIMEOUT_KEY, timeout), (DEADLINE_KEY, deadline)] {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(HeaderName::from_static(key), value);
        }
    }
    let told = Told::read(&headers);
    assert!(told.timeout_us.is_none_or(|timeout_us| timeout_us >= 0));
    let ours = PeerClock::of(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let other = PeerClock::of(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)));
    for mut clock in [ours, other] {
        for _ in 0..9 {
            let remaining_us = clock.remaining_us(told.timeout_us, told.told_us);
            if let (Some(remaining_us), Some(timeout_us)) = (remaining_us, told.timeout_us) {
                assert!(remaining_us <= timeout_us);
            }
        }
    }
    let name = String::from_utf8_lossy(name);
    if let Err(refusal) = Encoding::parse(Some(&name)) {
        assert_eq!(refusal.status().code, Code::Unimplemented);
        let told = Refusal::Transport(Code::Internal, name.into_owned()).status();
        assert_eq!(told.trailers.len(), 2);
    }
}
