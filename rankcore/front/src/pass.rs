//! Passes a call on, unchanged, to the server behind the front, and its answer back: streams both ways, trailers, resets and
//! flow control. A side that reads slowly slows the other side down, not the front.

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream, client};
use http::header::AUTHORIZATION;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, Version};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

use crate::budget::{Told, monotonic_us};
use crate::connection::{HEADERS_BYTES_MAX, Peer, WINDOW_CONNECTION, WINDOW_STREAM, refuse};
use crate::identity::{Caller, Remote};
use crate::limits::Part;
use crate::status::{Code, Refusal};

/// Metadata by which the front tells the server behind it when a call's true budget ends, microseconds of the machine's
/// monotonic clock. Never taken from clients.
const DEADLINE: HeaderName = HeaderName::from_static("muster-deadline-monotonic-us");

/// Metadata by which it tells who calls, and from where. Never taken from clients.
const CALLER: HeaderName = HeaderName::from_static("muster-caller");
const CALLER_ADDRESS: HeaderName = HeaderName::from_static("muster-caller-address");

/// The way to the server behind the front, opened when the first call needs it. Each connection of a client has one of its
/// own, so that clients slow down and break off apart from each other.
pub struct Upstream {
    path: Arc<Path>,
    sender: Mutex<Option<SendRequest<Bytes>>>,
}

impl Upstream {
    /// `path`: the server's unix socket.
    #[must_use]
    pub fn new(path: Arc<Path>) -> Self {
        Self {
            path,
            sender: Mutex::new(None),
        }
    }

    /// A sender that takes a call now.
    async fn sender(&self) -> io::Result<SendRequest<Bytes>> {
        let mut sender = self.sender.lock().await;
        if let Some(known) = sender.as_ref()
            && let Ok(ready) = known.clone().ready().await
        {
            return Ok(ready);
        }
        let stream = UnixStream::connect(&self.path).await?;
        let (opened, connection) = client::Builder::new()
            .initial_window_size(WINDOW_STREAM)
            .initial_connection_window_size(WINDOW_CONNECTION)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .enable_push(false)
            .handshake(stream)
            .await
            .map_err(io::Error::other)?;
        // Ends with the last call and the last sender. Whatever breaks it breaks the calls, and they tell.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let ready = opened.clone().ready().await.map_err(io::Error::other)?;
        *sender = Some(opened);
        Ok(ready)
    }
}

/// Aborts a task when its owner ends in whatever way.
struct Owned(AbortHandle);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Passes one call on.
pub async fn pass(
    peer: &Peer,
    caller: &Caller,
    request: Request<RecvStream>,
    mut respond: SendResponse<Part>,
) {
    let told = Told::read(request.headers());
    let remaining_us = peer
        .clock
        .lock()
        .remaining_us(told.timeout_us, told.told_us);
    let (mut head, body) = request.into_parts();
    head.headers.remove(&DEADLINE);
    if let Some(remaining_us) = remaining_us {
        let deadline_us = monotonic_us().saturating_add(remaining_us);
        head.headers
            .insert(DEADLINE, HeaderValue::from(deadline_us));
    }
    introduce(&mut head.headers, &peer.remote, caller);
    head.uri = absolute(&head.uri);
    head.version = Version::HTTP_2;
    let ended = body.is_end_stream();
    let opened = tokio::select! {
        opened = peer.upstream.sender() => opened,
        _ = poll_fn(|context| respond.poll_reset(context)) => return,
    };
    let sent = opened.and_then(|mut sender| {
        sender
            .send_request(Request::from_parts(head, ()), ended)
            .map_err(io::Error::other)
    });
    let (response, up) = match sent {
        Ok(sent) => sent,
        Err(error) => {
            refuse(&mut respond, &unreachable(&error));
            return;
        }
    };
    // The request's body flows on while the response's does: either side may speak first.
    let _upward = (!ended).then(|| Owned(tokio::spawn(copy_request(body, up)).abort_handle()));
    let response = tokio::select! {
        response = response => response,
        _ = poll_fn(|context| respond.poll_reset(context)) => return,
    };
    let (head, body) = match response {
        Ok(response) => response.into_parts(),
        Err(error) => {
            match error.reason().filter(|_| error.is_reset()) {
                Some(reason) => respond.send_reset(reason),
                None => {
                    refuse(&mut respond, &unreachable(&error));
                }
            }
            return;
        }
    };
    let ended = body.is_end_stream();
    let Ok(mut down) = respond.send_response(http::Response::from_parts(head, ()), ended) else {
        return;
    };
    if ended {
        return;
    }
    let copied = copy(body, &mut down, |data| Part::new(data, &peer.unsent)).await;
    if let Err(reason) = copied {
        down.send_reset(reason);
    }
}

/// Says who calls, whatever the client says of that itself. What let it in stays here.
fn introduce(headers: &mut HeaderMap, remote: &Remote, caller: &Caller) {
    headers.remove(AUTHORIZATION);
    headers.remove(&CALLER);
    let value = |text: &str| HeaderValue::from_str(text).ok();
    if let Some(subject) = caller.subject.as_deref().and_then(value) {
        headers.insert(CALLER, subject);
    }
    if let Some(address) = value(&remote.address.to_string()) {
        headers.insert(CALLER_ADDRESS, address);
    }
}

async fn copy_request(body: RecvStream, mut up: SendStream<Bytes>) {
    if let Err(reason) = copy(body, &mut up, |data| data).await {
        up.send_reset(reason);
    }
}

/// Copies data, each piece as `part` makes it, and trailers. The source may send on only once the target has taken what came
/// before.
///
/// # Errors
/// Why the target must be reset.
async fn copy<B: Buf>(
    mut from: RecvStream,
    to: &mut SendStream<B>,
    part: impl Fn(Bytes) -> B,
) -> Result<(), Reason> {
    loop {
        let data = tokio::select! {
            data = from.data() => data,
            reset = poll_fn(|context| to.poll_reset(context)) => {
                return Err(reset.unwrap_or(Reason::CANCEL));
            }
        };
        let Some(data) = data else { break };
        let mut data = data.map_err(|error| broken(&error))?;
        let length = data.len();
        while !data.is_empty() {
            to.reserve_capacity(data.len());
            let room = to.capacity().min(data.len());
            if room == 0 {
                // Told only when there is more than before, so asked only where there is none.
                let more = poll_fn(|context| to.poll_capacity(context)).await;
                more.ok_or(Reason::CANCEL)?
                    .map_err(|error| broken(&error))?;
                continue;
            }
            let piece = part(data.split_to(room));
            to.send_data(piece, false).map_err(|error| broken(&error))?;
        }
        from.flow_control()
            .release_capacity(length)
            .map_err(|error| broken(&error))?;
    }
    let trailers = from.trailers().await.map_err(|error| broken(&error))?;
    match trailers {
        Some(trailers) => to.send_trailers(trailers),
        None => to.send_data(part(Bytes::new()), true),
    }
    .map_err(|error| broken(&error))
}

/// A side that reset its stream resets the other for the same reason. One whose connection broke is UNAVAILABLE to the other.
fn broken(error: &h2::Error) -> Reason {
    error
        .reason()
        .filter(|_| error.is_reset())
        .unwrap_or(Reason::REFUSED_STREAM)
}

fn unreachable(error: &dyn std::error::Error) -> Refusal {
    Refusal::Transport(
        Code::Unavailable,
        format!("this replica is leaving, or its services do not answer: {error}"),
    )
}

/// A client of HTTP/2 needs scheme and authority, which a call may lack.
fn absolute(uri: &Uri) -> Uri {
    let mut parts = uri.clone().into_parts();
    parts.scheme.get_or_insert(Scheme::HTTP);
    parts
        .authority
        .get_or_insert(Authority::from_static("localhost"));
    parts
        .path_and_query
        .get_or_insert(PathAndQuery::from_static("/"));
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

#[cfg(test)]
mod tests;
