//! One connection of a client: HTTP/2 over anything that reads and writes. Encryption goes below this.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{self, SendResponse};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::Shared;
use crate::budget::PeerClock;
use crate::pass::{Upstream, pass};
use crate::ranking::{self, answer};
use crate::status::{Code, Refusal, Status};
use crate::turn::Turn;

/// Bytes of one call that may be on their way before the receiver has taken any.
pub const WINDOW_STREAM: u32 = 1 << 20;
/// The same for all calls of a connection: what a client can make the front keep.
pub const WINDOW_CONNECTION: u32 = 16 << 20;
/// Metadata of one call.
pub const HEADERS_BYTES_MAX: u32 = 64 * 1024;
/// A client that says nothing for so long after connecting is let go.
const HANDSHAKE_MAX: Duration = Duration::from_secs(20);

/// The client at the other end.
pub struct Peer {
    /// Its clock.
    pub clock: Mutex<PeerClock>,
    /// Where its other calls go.
    pub upstream: Upstream,
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
pub fn refuse(respond: &mut SendResponse<Bytes>, refusal: &Refusal) -> Status {
    let status = refusal.status();
    let mut response = ranking::head();
    response.headers_mut().extend(status.trailers.clone());
    let _ = respond.send_response(response, true);
    status
}

/// Serves one connection until it ends: by the client, or by a drain once its calls are done.
pub async fn serve<IO>(io: IO, address: IpAddr, shared: Arc<Shared>, turn: Arc<Turn>)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = server::Builder::new()
        .initial_window_size(WINDOW_STREAM)
        .initial_connection_window_size(WINDOW_CONNECTION)
        .max_header_list_size(HEADERS_BYTES_MAX)
        // Callers whose time is over reset their calls, in a flood hundreds at once; each costs less than a call.
        .max_pending_accept_reset_streams(shared.settings.requests_in_flight_max)
        .max_concurrent_reset_streams(shared.settings.requests_in_flight_max)
        .handshake::<_, Bytes>(io);
    let Ok(Ok(mut connection)) = timeout(HANDSHAKE_MAX, handshake).await else {
        return;
    };
    let peer = Arc::new(Peer {
        clock: Mutex::new(PeerClock::of(address)),
        upstream: Upstream::new(Arc::clone(&shared.settings.upstream)),
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
                    pass(&peer, request, respond).await;
                    drop(in_flight);
                });
            }
        }
    }
}
