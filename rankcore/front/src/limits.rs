//! What one client can make the front do and keep. What h2 bounds itself is set in `connection`; the rest is watched here,
//! below h2, where every byte of the connection passes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};

/// Limits of one connection. The defaults stand well above what gRPC's clients do: most send a few frames for each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A client that has not begun to speak HTTP/2 after so long is let go.
    pub handshake: Duration,
    /// Time between the pings that find out whether a client is still there.
    pub ping_every: Duration,
    /// A client that has not answered a ping after so long is let go.
    pub pong_within: Duration,
    /// A client that takes not one byte of what is written to it for so long is let go.
    pub stall: Duration,
    /// SETTINGS in a second. Each may change the window of every call.
    pub settings_per_s: u32,
    /// RST_STREAM in a second: calls given up.
    pub resets_per_s: u32,
    /// Frames in a second that are no part of a call: PING, WINDOW_UPDATE, PRIORITY, and what is unknown.
    pub others_per_s: u32,
    /// As many more of those for each HEADERS and DATA in the same second.
    pub others_per_frame: u32,
    /// Bytes of answers that the client has not taken; a ranking call beyond gets none.
    pub unsent_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(20),
            ping_every: Duration::from_secs(60),
            pong_within: Duration::from_secs(20),
            stall: Duration::from_secs(20),
            settings_per_s: 100,
            resets_per_s: 20_000,
            others_per_s: 10_000,
            others_per_frame: 4,
            unsent_bytes: 32 << 20,
        }
    }
}

const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const SECOND: Duration = Duration::from_secs(1);

/// Counts the frames of one connection by the heads that pass. Source: RFC 9113, sections 3.4 and 4.1.
#[derive(Debug)]
struct Frames {
    head: [u8; HEAD_BYTES],
    head_length: usize,
    /// Bytes of the preface or of a payload that come before the next head.
    skip: usize,
    since: Instant,
    settings: u32,
    resets: u32,
    others: u32,
    calls: u32,
}

impl Frames {
    fn new(now: Instant) -> Self {
        Self {
            head: [0; HEAD_BYTES],
            head_length: 0,
            skip: PREFACE_BYTES,
            since: now,
            settings: 0,
            resets: 0,
            others: 0,
            calls: 0,
        }
    }

    /// Takes the bytes that were read next. False: there were more frames in this second than the limits allow.
    fn count(&mut self, mut data: &[u8], now: Instant, limits: &Limits) -> bool {
        if now.duration_since(self.since) >= SECOND {
            self.since = now;
            (self.settings, self.resets, self.others, self.calls) = (0, 0, 0, 0);
        }
        while !data.is_empty() {
            let skipped = self.skip.min(data.len());
            self.skip -= skipped;
            data = &data[skipped..];
            let taken = (HEAD_BYTES - self.head_length).min(data.len());
            self.head[self.head_length..self.head_length + taken].copy_from_slice(&data[..taken]);
            self.head_length += taken;
            data = &data[taken..];
            if self.head_length == HEAD_BYTES {
                self.head_length = 0;
                let [high, middle, low, kind, ..] = self.head;
                self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
                self.note(kind);
            }
        }
        let others_max = self
            .calls
            .saturating_mul(limits.others_per_frame)
            .saturating_add(limits.others_per_s);
        self.settings <= limits.settings_per_s
            && self.resets <= limits.resets_per_s
            && self.others <= others_max
    }

    fn note(&mut self, kind: u8) {
        let counter = match kind {
            // DATA, HEADERS, CONTINUATION: h2 bounds those that carry nothing.
            0 | 1 | 9 => &mut self.calls,
            3 => &mut self.resets,
            4 => &mut self.settings,
            _ => &mut self.others,
        };
        *counter = counter.saturating_add(1);
    }
}

/// A connection below h2 that is watched while it is read and written.
pub struct Watched<IO> {
    io: IO,
    limits: Limits,
    frames: Frames,
    /// Told once, when the client is to be calmed; nothing is read from then on.
    excess: Arc<Notify>,
    calmed: bool,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<IO> Watched<IO> {
    /// `excess`: told when the client sends more than the limits allow.
    pub fn new(io: IO, limits: Limits, excess: Arc<Notify>) -> Self {
        Self {
            io,
            limits,
            frames: Frames::new(Instant::now()),
            excess,
            calmed: false,
            stalled: None,
        }
    }

    /// `written`: what the system said to the last attempt. Time runs while it takes nothing.
    fn stall<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limits.stall;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.calmed {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(context, buffer))?;
        let read = &buffer.filled()[before..];
        if !this.frames.count(read, Instant::now(), &this.limits) {
            this.calmed = true;
            this.excess.notify_one();
            buffer.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, data);
        self.stall(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, parts);
        self.stall(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// Bytes of a connection that were given to h2 and neither written nor dropped since.
pub type Unsent = Arc<AtomicUsize>;

/// A piece of an answer; counts as unsent while h2 keeps it.
#[derive(Debug)]
pub struct Part {
    data: Bytes,
    length: usize,
    unsent: Unsent,
}

impl Part {
    /// Counts `data` as unsent from now on.
    pub fn new(data: Bytes, unsent: &Unsent) -> Self {
        unsent.fetch_add(data.len(), Ordering::Relaxed);
        Self {
            length: data.len(),
            data,
            unsent: Arc::clone(unsent),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.unsent.fetch_sub(self.length, Ordering::Relaxed);
    }
}

impl Buf for Part {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        handshake: SECOND,
        ping_every: SECOND,
        pong_within: SECOND,
        stall: SECOND,
        settings_per_s: 2,
        resets_per_s: 3,
        others_per_s: 4,
        others_per_frame: 2,
        unsent_bytes: 1,
    };

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        frame.resize(HEAD_BYTES + usize::from(length), 6);
        frame
    }

    fn all(kinds: &[(u8, u8)]) -> Vec<u8> {
        let mut data = vec![b'P'; PREFACE_BYTES];
        for (kind, length) in kinds {
            data.extend(frame(*kind, *length));
        }
        data
    }

    #[test]
    fn frames_are_counted_by_kind_however_the_bytes_are_cut() {
        for (kinds, allowed) in [
            (&[(4, 6), (4, 0)][..], true),
            (&[(4, 6), (4, 0), (4, 12)][..], false),
            (&[(3, 4), (3, 4), (3, 4)][..], true),
            (&[(3, 4), (3, 4), (3, 4), (3, 4)][..], false),
            (&[(6, 8), (8, 4), (2, 5), (200, 9)][..], true),
            (&[(6, 8), (8, 4), (2, 5), (200, 9), (6, 8)][..], false),
            (
                &[(1, 30), (6, 8), (8, 4), (2, 5), (200, 9), (6, 8)][..],
                true,
            ),
            (&[(0, 0), (1, 0), (9, 0), (4, 0)][..], true),
        ] {
            let data = all(kinds);
            for size in [1, 2, 9, 10, 33, data.len()] {
                let now = Instant::now();
                let mut frames = Frames::new(now);
                let within = data
                    .chunks(size)
                    .all(|part| frames.count(part, now, &LIMITS));
                assert_eq!(within, allowed, "{kinds:?} in parts of {size}");
            }
        }
    }

    #[test]
    fn each_second_counts_for_itself() {
        let start = Instant::now();
        let mut frames = Frames::new(start);
        assert!(frames.count(&all(&[(6, 8); 4]), start, &LIMITS));
        assert!(!frames.count(&frame(6, 8), start + SECOND / 2, &LIMITS));
        assert!(frames.count(&frame(6, 8), start + SECOND, &LIMITS));
    }

    #[test]
    fn a_part_counts_until_it_is_dropped() {
        let unsent = Unsent::default();
        let mut part = Part::new(Bytes::from_static(b"abcd"), &unsent);
        part.advance(3);
        assert_eq!((part.chunk(), part.remaining()), (&b"d"[..], 1));
        assert_eq!(unsent.load(Ordering::Relaxed), 4);
        drop(part);
        assert_eq!(unsent.load(Ordering::Relaxed), 0);
    }
}
