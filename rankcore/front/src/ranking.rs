//! Answers one call of `muster.v1.RankingService`.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use rankcore_engine::engine::Method;
use rankcore_engine::error::Error;
use rankcore_engine::reply::Cancel;
use tokio::sync::oneshot;

use crate::budget::{self, Told};
use crate::connection::{Peer, refuse};
use crate::limits::{Part, Unsent};
use crate::message::{self, ACCEPTED, Encoding, Unread};
use crate::status::{self, Code, Refusal};
use crate::trace::{self, Traced};
use crate::turn::{Ended, Given, Read, Turn};
use crate::{News, Shared};

/// Metadata that name the class of a request.
const PRIORITY: HeaderName = HeaderName::from_static("muster-priority");
/// Metadata that name whom a request belongs to: one shopper is served by one bundle while another is tried out.
const SHOPPER_KEY: HeaderName = HeaderName::from_static("muster-shopper-key");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

const GRPC: &str = "application/grpc";

/// A method that the front answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    /// One that ranks for a query.
    Ranked(Method),
    /// What a shopper takes next.
    Recommend,
}

impl Called {
    /// All of them.
    pub const ALL: [Called; 3] = [
        Called::Ranked(Method::Search),
        Called::Ranked(Method::Rerank),
        Called::Recommend,
    ];

    /// Its name in the contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Called::Ranked(Method::Search) => "Search",
            Called::Ranked(Method::Rerank) => "Rerank",
            Called::Recommend => "Recommend",
        }
    }
}

/// The method that a path names, if the front answers it.
#[must_use]
pub fn method(path: &str) -> Option<Called> {
    let name = path.strip_prefix("/muster.v1.RankingService/")?;
    Called::ALL
        .into_iter()
        .find(|called| called.as_str() == name)
}

/// The head of every response that the front makes itself.
pub fn head() -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(ACCEPTED));
    response
}

/// How a call ended for its caller.
enum End {
    Answered {
        given: Given,
        at: Instant,
    },
    Refused(Refusal),
    /// The caller left, or the connection broke: nobody is told.
    Left,
}

/// Gives the request up when its call ends in whatever way; one that has ended no longer minds.
struct GiveUp(Arc<Cancel>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Answers one call.
pub async fn answer(
    shared: &Shared,
    peer: &Peer,
    turn: &Turn,
    method: Called,
    request: Request<RecvStream>,
    mut respond: SendResponse<Part>,
) {
    if let Some(code) = no_grpc(&request) {
        let mut response = Response::new(());
        *response.status_mut() = code;
        // The client may be gone.
        let _ = respond.send_response(response, true);
        return;
    }
    let (head, body) = request.into_parts();
    let counts = shared.counts(method);
    let started = Instant::now();
    counts.start();
    let context = shared.traces.begin(&head.headers);
    let mut account = None;
    let end = rank(
        shared,
        peer,
        turn,
        method,
        started,
        &head.headers,
        body,
        &mut respond,
    )
    .await;
    let unsent_max = shared.settings.limits.unsent_bytes;
    let code = match end {
        End::Answered { given, at } => {
            account = given.account;
            let receipts = shared.receipts.load();
            let ending = receipts.as_ref().map(|receipts| receipts.ending());
            let ending = ending.as_ref().map_or(&[][..], |ending| &ending[..]);
            match message::frame(&given.bytes, ending, shared.settings.response_bytes_max) {
                Ok(framed) => {
                    let code = send(&mut respond, framed, &peer.unsent, unsent_max);
                    if let Some(engine) = &*shared.engine.load() {
                        engine.handed_over(at.elapsed());
                    }
                    code
                }
                Err(refusal) => tell(shared, &mut respond, &refusal, &head.headers),
            }
        }
        End::Refused(refusal) => tell(shared, &mut respond, &refusal, &head.headers),
        End::Left => Code::Cancelled,
    };
    let took = started.elapsed();
    counts.finish(code, took);
    if let Some(context) = context {
        shared.traces.end(Traced {
            context,
            method,
            began_unix_us: trace::unix_us(started),
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            code,
            account,
            request_id: trace::request_id(&head.headers),
        });
    }
}

fn no_grpc(request: &Request<RecvStream>) -> Option<StatusCode> {
    if request.method() != http::Method::POST {
        return Some(StatusCode::METHOD_NOT_ALLOWED);
    }
    let kind = request.headers().get(CONTENT_TYPE);
    if !kind.is_some_and(|kind| kind.as_bytes().starts_with(GRPC.as_bytes())) {
        return Some(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    None
}

#[allow(clippy::too_many_arguments, reason = "the parts of one call")]
async fn rank(
    shared: &Shared,
    peer: &Peer,
    turn: &Turn,
    method: Called,
    started: Instant,
    headers: &HeaderMap,
    mut body: RecvStream,
    respond: &mut SendResponse<Part>,
) -> End {
    if shared.engine.load().is_none() {
        return End::Refused(Refusal::Starting);
    }
    let told = Told::read(headers);
    let remaining_us = peer
        .clock
        .lock()
        .remaining_us(told.timeout_us, told.told_us)
        .unwrap_or(shared.settings.default_us)
        .min(shared.settings.max_us);
    let remaining_us = match u64::try_from(remaining_us) {
        Ok(remaining_us) if remaining_us > 0 => remaining_us,
        _ => return End::Refused(Refusal::BudgetSpent),
    };
    let encoding = headers
        .get(ENCODING)
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let encoding = match Encoding::parse(encoding.as_deref()) {
        Ok(encoding) => encoding,
        Err(refusal) => return End::Refused(refusal),
    };
    let deadline = budget::deadline(started, i64::try_from(remaining_us).unwrap_or(i64::MAX));
    let over = tokio::time::sleep_until(deadline.into());
    tokio::pin!(over);
    let message = tokio::select! {
        biased;
        message = message::read(&mut body, encoding, shared.settings.request_bytes_max) => message,
        () = &mut over => return End::Refused(Refusal::BudgetSpent),
    };
    let message = match message {
        Ok(message) => message,
        Err(Unread::Refused(refusal)) => return End::Refused(refusal),
        Err(Unread::Broken) => return End::Left,
    };
    let given_up = GiveUp(Arc::default());
    let (done, mut ended) = oneshot::channel();
    turn.push(Read {
        method,
        message,
        arrived: started,
        remaining_us,
        priority: headers.get(PRIORITY).cloned(),
        key: headers.get(SHOPPER_KEY).cloned(),
        cancel: Arc::clone(&given_up.0),
        done,
    });
    let end = tokio::select! {
        biased;
        end = &mut ended => end,
        _ = poll_fn(|context| respond.poll_reset(context)) => return End::Left,
        () = &mut over => {
            given_up.0.expire();
            ended.await
        }
    };
    match end {
        Ok(Ended {
            at,
            result: Ok(given),
        }) => End::Answered { given, at },
        Ok(Ended {
            result: Err(refusal),
            ..
        }) => End::Refused(refusal),
        // Only a panic on the way drops the sender unused.
        Err(_) => End::Refused(Refusal::Core(Error::Internal(
            "a call ended untold".to_owned(),
        ))),
    }
}

/// Gives an answer to h2, which keeps what the client does not take yet. Beyond `unsent_max` bytes of that the answer is
/// dropped: gRPC reads ENHANCE_YOUR_CALM as RESOURCE_EXHAUSTED.
fn send(
    respond: &mut SendResponse<Part>,
    framed: Bytes,
    unsent: &Unsent,
    unsent_max: usize,
) -> Code {
    if unsent.load(Ordering::Relaxed) >= unsent_max {
        respond.send_reset(Reason::ENHANCE_YOUR_CALM);
        return Code::ResourceExhausted;
    }
    let sent = respond.send_response(head(), false).and_then(|mut stream| {
        stream.send_data(Part::new(framed, unsent), false)?;
        stream.send_trailers(status::ok())
    });
    match sent {
        Ok(()) => Code::Ok,
        Err(_) => Code::Cancelled,
    }
}

fn tell(
    shared: &Shared,
    respond: &mut SendResponse<Part>,
    refusal: &Refusal,
    headers: &HeaderMap,
) -> Code {
    let status = refuse(respond, refusal);
    if let Some(mut failure) = status.failure {
        failure.request_id = trace::request_id(headers);
        shared.tell(News::Failed(failure));
    }
    status.code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_the_client_does_not_take_are_bounded() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let (near, far) = tokio::io::duplex(1 << 16);
            let unsent = Unsent::default();
            let counted = Arc::clone(&unsent);
            let server = tokio::spawn(async move {
                let builder = h2::server::Builder::new();
                let mut server = builder.handshake::<_, Part>(far).await.expect("HTTP/2");
                let mut codes = Vec::new();
                while let Some(Ok((_, mut respond))) = server.accept().await {
                    let framed = Bytes::from(vec![7; 1_000]);
                    codes.push(send(&mut respond, framed, &counted, 1_500));
                }
                codes
            });
            // It opens no window for what it asks.
            let mut builder = h2::client::Builder::new();
            let client = builder.initial_window_size(0).handshake::<_, Bytes>(near);
            let (mut sender, connection) = client.await.expect("HTTP/2");
            let connection = tokio::spawn(connection);
            let mut answers = Vec::new();
            for _ in 0..3 {
                sender = sender.ready().await.expect("room");
                let request = Request::post("http://localhost/").body(());
                let (answer, _) = sender
                    .send_request(request.expect("a request"), true)
                    .expect("open");
                answers.push(answer.await);
            }
            let refused = answers.pop().expect("three").expect_err("a reset");
            assert_eq!(refused.reason(), Some(Reason::ENHANCE_YOUR_CALM));
            assert!(answers.iter().all(Result::is_ok));
            assert_eq!(unsent.load(Ordering::Relaxed), 2_000);
            connection.abort();
            drop((answers, sender));
            let codes = server.await.expect("the client left");
            assert_eq!(codes, [Code::Ok, Code::Ok, Code::ResourceExhausted]);
            assert_eq!(unsent.load(Ordering::Relaxed), 0);
        });
    }
}
