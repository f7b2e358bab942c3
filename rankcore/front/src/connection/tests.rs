use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use crate::limits::Limits;
use crate::testing::{
    ACK, CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING,
    PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, call, frame, front,
};
use crate::{Front, Settings};

const ENHANCE_YOUR_CALM: u32 = 11;
const REFUSED_STREAM: u32 = 7;
const SHORT: Duration = Duration::from_millis(200);

/// A front with a server behind it that takes calls and never answers.
struct Hanging {
    front: Front,
    _server: UnixListener,
    _folder: tempfile::TempDir,
}

fn hanging(change: impl FnOnce(&mut Settings)) -> Hanging {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("server");
    Hanging {
        _server: UnixListener::bind(&path).expect("a socket"),
        front: front(&path, change),
        _folder: folder,
    }
}

fn limited(limits: Limits) -> Hanging {
    hanging(|settings| settings.limits = limits)
}

impl Hanging {
    fn client(&self) -> Client {
        Client::new(self.front.address())
    }

    /// Another client is served as ever.
    fn check(&self) {
        let mut client = self.client();
        client.write(&frame(PING, 0, 0, b"still up"));
        assert_eq!(answered(&mut client).payload, b"still up");
    }
}

fn answered(client: &mut Client) -> Frame {
    loop {
        let pong = client.expect(PING);
        if pong.flags & ACK != 0 {
            return pong;
        }
    }
}

fn open(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &call("/a.Service/Method"))
}

/// The last frame tells the client to calm down, and the connection ends with it.
fn calmed(client: &mut Client) {
    let frames = client.rest();
    let last = frames.last().expect("a frame");
    assert_eq!((last.kind, last.code()), (GOAWAY, ENHANCE_YOUR_CALM));
}

#[test]
fn a_client_that_pings_as_often_as_grpc_allows_is_answered_every_time() {
    let server = hanging(|_| {});
    let mut client = server.client();
    for number in 0..500_u64 {
        client.write(&frame(PING, 0, 0, &number.to_be_bytes()));
        assert_eq!(answered(&mut client).payload, number.to_be_bytes());
    }
}

#[test]
fn a_flood_of_frames_that_ask_nothing_is_answered_with_calm_down() {
    let limits = Limits {
        settings_per_s: 20,
        others_per_s: 100,
        ..Limits::default()
    };
    let server = limited(limits);
    for (kind, payload, count) in [
        (PING, &[7; 8][..], 101),
        (SETTINGS, &[][..], 20),
        (WINDOW_UPDATE, &[0, 0, 0, 1][..], 101),
        (PRIORITY, &[0, 0, 0, 0, 9][..], 101),
        (0xbe, &[1, 2, 3][..], 101),
    ] {
        let stream = u32::from(kind == PRIORITY);
        let mut client = server.client();
        client.expect(SETTINGS);
        // The client's first settings count as well.
        client.write(&frame(kind, 0, stream, payload).repeat(count));
        calmed(&mut client);
    }
    server.check();
}

#[test]
fn a_flood_without_end_ends_the_connection() {
    let server = hanging(|_| {});
    let mut client = server.client();
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(1_000);
    let mut reader = Client(client.0.try_clone().expect("a socket"));
    let reading = std::thread::spawn(move || reader.rest().len());
    // Twice what is allowed in a second, which is more than two seconds can take.
    for _ in 0..50 {
        client.write(&pings);
    }
    reading.join().expect("the connection ends");
    server.check();
}

#[test]
fn calls_that_are_reset_at_once_are_bounded_in_a_second() {
    let server = limited(Limits {
        resets_per_s: 50,
        ..Limits::default()
    });
    let flood = |count: u32| {
        let mut client = server.client();
        client.expect(SETTINGS);
        let pairs: Vec<u8> = (0..count)
            .flat_map(|number| {
                let stream = 2 * number + 1;
                [open(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
            })
            .collect();
        client.write(&pairs);
        client
    };
    let mut allowed = flood(50);
    allowed.write(&frame(PING, 0, 0, &[7; 8]));
    answered(&mut allowed);
    calmed(&mut flood(51));
    server.check();
}

#[test]
fn header_blocks_that_never_end_are_cut_off() {
    let server = hanging(|_| {});
    let mut client = server.client();
    let part = |stream| frame(CONTINUATION, 0, stream, &[0; 8]);
    client.write(&[frame(HEADERS, 0, 1, &[]), part(1).repeat(6)].concat());
    calmed(&mut client);
    server.check();
}

#[test]
fn headers_above_the_limit_are_refused_and_far_above_it_end_the_connection() {
    let server = hanging(|_| {});
    let field = |length: usize| {
        let mut block = call("/a.Service/Method");
        // A literal of `length` bytes: RFC 7541, section 5.1.
        block.extend([0, 1, b'x', 0x7f]);
        let mut rest = length - 0x7f;
        while rest >= 0x80 {
            block.push(0x80 | (rest & 0x7f) as u8);
            rest >>= 7;
        }
        block.push(rest as u8);
        block.resize(block.len() + length, b'y');
        block
    };
    let send = |client: &mut Client, block: &[u8]| {
        let parts: Vec<_> = block.chunks(16_384).collect();
        for (number, part) in parts.iter().enumerate() {
            let kind = if number == 0 { HEADERS } else { CONTINUATION };
            let last = number + 1 == parts.len();
            client.write(&frame(kind, u8::from(last) * END_HEADERS, 1, part));
        }
    };
    let mut client = server.client();
    send(&mut client, &field(60_000));
    client.write(&frame(PING, 0, 0, &[7; 8]));
    answered(&mut client);

    let mut client = server.client();
    send(&mut client, &field(70_000));
    let refused = client.expect(HEADERS);
    assert_eq!(refused.stream, 1);
    // 431, as h2 writes it: `:status` by its index, three digits in Huffman's code.
    assert_eq!(refused.payload, [0x48, 0x83, 0x69, 0x90, 0xff]);

    let mut client = server.client();
    send(&mut client, &field(300_000));
    assert!(client.rest().iter().any(|frame| frame.kind == GOAWAY));
    server.check();
}

#[test]
fn empty_data_frames_are_bounded() {
    let server = hanging(|_| {});
    let mut client = server.client();
    client.write(&[open(1), frame(DATA, 0, 1, &[]).repeat(101)].concat());
    calmed(&mut client);
    server.check();
}

#[test]
fn calls_beyond_the_limit_are_refused_and_the_others_are_kept() {
    let server = hanging(|settings| settings.requests_in_flight_max = 16);
    let mut client = server.client();
    let announced = client.expect(SETTINGS).payload;
    let streams_max = announced
        .chunks_exact(6)
        .find(|setting| setting[..2] == [0, 3]);
    assert_eq!(streams_max.expect("it is announced")[2..], [0, 0, 0, 32]);
    let calls: Vec<u8> = (0..100).flat_map(|number| open(2 * number + 1)).collect();
    client.write(&calls);
    client.write(&frame(PING, 0, 0, b"all read"));
    let (mut told, mut refused) = (0, 0);
    while told + refused < 84 {
        let frame = client.next().expect("the connection is open");
        match frame.kind {
            HEADERS => told += 1,
            RST_STREAM if frame.code() == REFUSED_STREAM => refused += 1,
            _ => {}
        }
    }
    // A refusal is told to those that h2 takes; how many it takes at once depends on how the bytes come in.
    assert!(told >= 16 && refused > 0, "{told} told, {refused} refused");
    server.check();
}

#[test]
fn one_connection_more_than_the_limit_is_closed_and_one_that_ends_makes_room() {
    let server = hanging(|settings| settings.connections_max = 2);
    let mut kept: Vec<Client> = (0..2).map(|_| server.client()).collect();
    for client in &mut kept {
        client.expect(SETTINGS);
    }
    assert!(server.client().rest().is_empty());
    kept.pop();
    let started = Instant::now();
    while server.client().next().is_none() {
        assert!(started.elapsed() < crate::testing::SOON, "no room");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_client_that_says_nothing_is_let_go() {
    let server = limited(Limits {
        handshake: SHORT,
        ..Limits::default()
    });
    for said in [&b""[..], b"PRI * HTTP/2.0\r\n"] {
        let mut client = Client::silent(server.front.address());
        client.write(said);
        client.rest();
    }
    server.check();
}

#[test]
fn a_client_is_kept_while_it_answers_pings_and_let_go_when_it_does_not() {
    let server = limited(Limits {
        ping_every: SHORT,
        pong_within: SHORT,
        ..Limits::default()
    });
    let mut client = server.client();
    let started = Instant::now();
    for _ in 0..5 {
        let ping = client.expect(PING);
        assert_eq!(ping.flags & ACK, 0);
        client.write(&frame(PING, ACK, 0, &ping.payload));
    }
    assert!(started.elapsed() >= 5 * SHORT);
    assert_eq!(client.expect(PING).flags & ACK, 0);
    client.rest();
}

#[test]
fn a_client_that_never_ends_its_headers_is_let_go() {
    let server = limited(Limits {
        ping_every: SHORT,
        pong_within: SHORT,
        ..Limits::default()
    });
    let mut client = server.client();
    client.write(&frame(HEADERS, END_STREAM, 1, &call("/a.Service/Method")));
    client.rest();
    server.check();
}

#[test]
fn what_is_no_http2_ends_the_connection() {
    let server = hanging(|_| {});
    for said in [
        &b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let mut client = Client::silent(server.front.address());
        client.write(said);
        client.rest();
    }
    server.check();
}
