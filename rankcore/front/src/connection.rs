//! One connection of a client: HTTP/2 over anything that reads and writes. Encryption (`tls`) is below this.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use h2::server::{self, SendResponse};
use h2::{Ping, Reason, RecvStream};
use http::Request;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::budget::PeerClock;
use crate::identity::{Caller, Denied, Remote};
use crate::limits::{Part, Unsent, Watched};
use crate::pass::{Upstream, pass};
use crate::ranking::{self, answer};
use crate::status::{Code, Refusal, Status};
use crate::turn::Turn;
use crate::{News, Shared};

/// Bytes of one call that may be on their way before the receiver has taken any.
pub const WINDOW_STREAM: u32 = 1 << 20;
/// The same for all calls of a connection: what a client can make the front keep.
pub const WINDOW_CONNECTION: u32 = 16 << 20;
/// Metadata of one call.
pub const HEADERS_BYTES_MAX: u32 = 64 * 1024;
/// Calls of one connection at once, for each that the front takes. Above one, or a client would not be told that there are too
/// many; bounded, or the refusals of a client that reads none would pile up.
const STREAMS_PER_CALL: usize = 2;
/// Bytes of one answer that are kept ready for the socket beyond what the client's window takes.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// Of the path of a refused call, what the log is told.
const PATH_CHARACTERS_MAX: usize = 200;

/// The client at the other end.
pub struct Peer {
    /// Where it is, and what it proved when it connected.
    pub remote: Remote,
    /// Its clock.
    pub clock: Mutex<PeerClock>,
    /// Where its other calls go.
    pub upstream: Upstream,
    /// What it has not taken of its answers.
    pub unsent: Unsent,
}

/// A call counts as in flight while this lives.
struct InFlight(Arc<Shared>);

impl InFlight {
    /// `None`: there are too many.
    fn begin(shared: &Arc<Shared>) -> Option<Self> {
        let before = shared.in_flight.fetch_add(1, Ordering::Relaxed);
        let begun = Self(Arc::clone(shared));
        (before < shared.settings.requests_in_flight_max).then_some(begun)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends a call with a refusal. The client may be gone; then nobody is told.
pub fn refuse(respond: &mut SendResponse<Part>, refusal: &Refusal) -> Status {
    let status = refusal.status();
    let mut response = ranking::head();
    response.headers_mut().extend(status.trailers.clone());
    let _ = respond.send_response(response, true);
    status
}

/// Serves one connection until it ends: by the client, or by a drain once its calls are done.
pub async fn serve<IO>(io: IO, remote: Remote, shared: Arc<Shared>, turn: Arc<Turn>)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let limits = shared.settings.limits;
    let excess = Arc::new(Notify::new());
    let streams_max = STREAMS_PER_CALL.saturating_mul(shared.settings.requests_in_flight_max);
    let handshake = server::Builder::new()
        .max_concurrent_streams(u32::try_from(streams_max).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .initial_window_size(WINDOW_STREAM)
        .initial_connection_window_size(WINDOW_CONNECTION)
        .max_header_list_size(HEADERS_BYTES_MAX)
        // Callers whose time is over reset their calls, in a flood hundreds at once; each costs less than a call.
        .max_pending_accept_reset_streams(shared.settings.requests_in_flight_max)
        .max_concurrent_reset_streams(shared.settings.requests_in_flight_max)
        .handshake::<_, Part>(Watched::new(io, limits, Arc::clone(&excess)));
    let Ok(Ok(mut connection)) = timeout(limits.handshake, handshake).await else {
        return;
    };
    let Some(mut pings) = connection.ping_pong() else {
        return;
    };
    let mut pinged = false;
    let beat = sleep(limits.ping_every);
    tokio::pin!(beat);
    let peer = Arc::new(Peer {
        clock: Mutex::new(PeerClock::of(remote.address)),
        remote,
        upstream: Upstream::new(Arc::clone(&shared.settings.upstream)),
        unsent: Unsent::default(),
    });
    let mut draining = shared.draining.subscribe();
    let mut told = false;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = connection.accept() => accepted,
            _ = draining.wait_for(Option::is_some), if !told => {
                told = true;
                connection.graceful_shutdown();
                continue;
            }
            () = excess.notified() => {
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                continue;
            }
            // Before the beat: after a pause of the process both are due, and the client did answer.
            pong = poll_fn(|context| pings.poll_pong(context)), if pinged => {
                if pong.is_err() {
                    return;
                }
                pinged = false;
                beat.as_mut().reset(Instant::now() + limits.ping_every);
                continue;
            }
            () = &mut beat => {
                if pinged || pings.send_ping(Ping::opaque()).is_err() {
                    return;
                }
                pinged = true;
                beat.as_mut().reset(Instant::now() + limits.pong_within);
                continue;
            }
        };
        let Some(Ok((request, mut respond))) = accepted else {
            return;
        };
        let Some(in_flight) = InFlight::begin(&shared) else {
            refuse(
                &mut respond,
                &Refusal::Transport(
                    Code::ResourceExhausted,
                    format!(
                        "{} calls are in flight, as many as rpc.requests_in_flight_max allows",
                        shared.settings.requests_in_flight_max
                    ),
                ),
            );
            continue;
        };
        let caller = match admit(&shared, &peer.remote, &request) {
            Ok(caller) => caller,
            Err(denied) => {
                deny(&shared, &peer.remote, &request, &denied, &mut respond);
                continue;
            }
        };
        let (shared, peer) = (Arc::clone(&shared), Arc::clone(&peer));
        match ranking::method(request.uri().path()) {
            Some(method) => {
                let turn = Arc::clone(&turn);
                tokio::spawn(async move {
                    answer(&shared, &peer, &turn, method, request, respond).await;
                    drop(in_flight);
                });
            }
            None => {
                tokio::spawn(async move {
                    pass(&peer, &caller, request, respond).await;
                    drop(in_flight);
                });
            }
        }
    }
}

/// Whether the caller may call this. Nobody is asked where the settings ask for nothing.
fn admit(
    shared: &Shared,
    remote: &Remote,
    request: &Request<RecvStream>,
) -> Result<Caller, Box<Denied>> {
    match &shared.gate {
        Some(gate) => gate
            .admit(remote, request.uri().path(), request.headers())
            .map_err(Box::new),
        None => Ok(Caller::default()),
    }
}

fn deny(
    shared: &Shared,
    remote: &Remote,
    request: &Request<RecvStream>,
    denied: &Denied,
    respond: &mut SendResponse<Part>,
) {
    let path = request.uri().path();
    let status = refuse(respond, &denied.refusal);
    if let Some(method) = ranking::method(path) {
        let counts = shared.counts(method);
        counts.start();
        counts.finish(status.code, Duration::ZERO);
    }
    if denied.operates {
        shared.tell(News::Denied {
            path: path.chars().take(PATH_CHARACTERS_MAX).collect(),
            address: remote.address,
            subject: denied.subject.as_deref().map(str::to_owned),
            reason: denied.reason.name(),
        });
    }
}

#[cfg(test)]
mod tests;
