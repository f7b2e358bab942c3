use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use h2::server;
use http::{HeaderMap, Response};
use tokio::net::{TcpStream, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::testing::{
    Client, END_HEADERS, HEADERS, SETTINGS, SOON, WINDOW_UPDATE, call, frame, front,
};
use crate::{Front, Settings};

/// A server behind a front, and the folder of its socket.
struct Behind {
    folder: tempfile::TempDir,
    serving: Option<JoinHandle<()>>,
}

impl Behind {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            serving: None,
        }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("server")
    }

    /// Serves each call with `answer` from now on.
    fn serve<F>(&mut self, answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        let listener = UnixListener::bind(self.socket()).expect("a socket");
        self.serving = Some(tokio::task::spawn_local(async move {
            // Calls and connections end with the server.
            let mut tasks = tokio::task::JoinSet::new();
            let answer = std::rc::Rc::new(answer);
            while let Ok((stream, _)) = listener.accept().await {
                let answer = std::rc::Rc::clone(&answer);
                tasks.spawn_local(async move {
                    let mut calls = tokio::task::JoinSet::new();
                    let mut connection = server::handshake(stream).await.expect("the front");
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        calls.spawn_local(answer(request, respond));
                    }
                });
            }
        }));
    }

    /// Breaks every connection, as a crash would.
    async fn crash(&mut self) {
        let serving = self.serving.take().expect("it serves");
        serving.abort();
        let _ = serving.await;
        std::fs::remove_file(self.socket()).expect("the socket's file");
    }

    fn front(&self, change: impl FnOnce(&mut Settings)) -> Front {
        front(&self.socket(), change)
    }
}

/// Runs a test on one thread; the front under test has its own.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let tasks = tokio::task::LocalSet::new();
    runtime
        .block_on(tasks.run_until(async { timeout(SOON, test).await }))
        .expect("it ends in time");
}

async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address)
        .await
        .expect("the front listens");
    let (sender, connection) = client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(async move {
        let _ = connection.await;
    });
    sender.ready().await.expect("room for a call")
}

fn request(headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::post("http://shop.example/a.Service/Method");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request")
}

/// Everything of a stream, and its trailers.
async fn all(mut body: RecvStream) -> (Vec<u8>, HeaderMap) {
    let mut data = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.expect("the stream is whole");
        let _ = body.flow_control().release_capacity(part.len());
        data.extend(part);
    }
    let trailers = body.trailers().await.expect("the stream is whole");
    (data, trailers.unwrap_or_default())
}

fn trailers(status: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("a-value-bin", HeaderValue::from_static("AAEC/w"));
    trailers
}

/// Sends bytes in pieces, as fast as the other side takes them, and returns how many went.
async fn pour(to: &mut SendStream<Bytes>, length: usize, sent: &AtomicUsize) {
    let piece = Bytes::from(vec![7; 64 * 1024]);
    while sent.load(Ordering::Relaxed) < length {
        to.reserve_capacity(piece.len());
        let Some(Ok(room)) = poll_fn(|context| to.poll_capacity(context)).await else {
            return;
        };
        let part = piece.slice(..room.min(piece.len()));
        sent.fetch_add(part.len(), Ordering::Relaxed);
        if to.send_data(part, false).is_err() {
            return;
        }
    }
}

#[test]
fn a_call_and_its_answer_arrive_as_they_were_sent() {
    run(async {
        let mut behind = Behind::new();
        behind.serve(|request, mut respond| async move {
            let (head, body) = request.into_parts();
            assert_eq!(head.method, http::Method::POST);
            assert_eq!(head.uri.path(), "/a.Service/Method");
            assert_eq!(head.uri.authority().expect("one"), "shop.example");
            assert_eq!(head.headers["a-key-bin"], "AAEC");
            assert!(!head.headers.contains_key(&DEADLINE), "from a client");
            let (data, _) = all(body).await;
            let response = Response::builder().header("seen", data.len());
            let mut stream = respond
                .send_response(response.body(()).expect("a response"), false)
                .expect("it listens");
            stream.send_data(data.into(), false).expect("it listens");
            stream.send_trailers(trailers("5")).expect("it listens");
        });
        let front = behind.front(|_| {});
        let mut sender = connect(front.address()).await;
        let request = request(&[("a-key-bin", "AAEC"), (DEADLINE.as_str(), "1")]);
        let (response, mut body) = sender.send_request(request, false).expect("open");
        body.send_data(Bytes::from_static(b"a message"), true)
            .expect("open");
        let (head, body) = response.await.expect("an answer").into_parts();
        assert_eq!(head.headers["seen"], "9");
        assert_eq!(all(body).await, (b"a message".to_vec(), trailers("5")));
    });
}

#[test]
fn an_answer_of_trailers_alone_arrives() {
    run(async {
        let mut behind = Behind::new();
        behind.serve(|_, mut respond| async move {
            let mut response = Response::new(());
            *response.headers_mut() = trailers("12");
            respond.send_response(response, true).expect("it listens");
        });
        let front = behind.front(|_| {});
        let mut sender = connect(front.address()).await;
        let (response, _) = sender.send_request(request(&[]), true).expect("open");
        let response = response.await.expect("an answer");
        assert_eq!(response.headers()["grpc-status"], "12");
        assert!(response.body().is_end_stream());
    });
}

#[test]
fn the_server_is_told_when_the_calls_time_ends() {
    run(async {
        let (told, mut deadlines) = mpsc::unbounded_channel();
        let mut behind = Behind::new();
        behind.serve(move |request, mut respond| {
            let told = told.clone();
            async move {
                let deadline = request.headers()[&DEADLINE].to_str().expect("digits");
                told.send(deadline.parse::<i64>().expect("digits"))
                    .expect("the test");
                respond
                    .send_response(Response::new(()), true)
                    .expect("it listens");
            }
        });
        let front = behind.front(|_| {});
        let mut sender = connect(front.address()).await;
        let before_us = monotonic_us();
        let request = request(&[("grpc-timeout", "5S"), (DEADLINE.as_str(), "1")]);
        let (response, _) = sender.send_request(request, true).expect("open");
        response.await.expect("an answer");
        let deadline_us = deadlines.recv().await.expect("the server was called");
        let range_us = before_us + 5_000_000..=monotonic_us() + 5_000_000;
        assert!(
            range_us.contains(&deadline_us),
            "{deadline_us} {range_us:?}"
        );
    });
}

#[test]
fn both_sides_speak_in_turns_before_either_ends() {
    run(async {
        let mut behind = Behind::new();
        behind.serve(|request, mut respond| async move {
            let mut body = request.into_body();
            let mut stream = respond
                .send_response(Response::new(()), false)
                .expect("it listens");
            while let Some(part) = body.data().await {
                stream
                    .send_data(part.expect("whole"), false)
                    .expect("it listens");
            }
            stream.send_trailers(trailers("0")).expect("it listens");
        });
        let front = behind.front(|_| {});
        let mut sender = connect(front.address()).await;
        let (response, mut up) = sender.send_request(request(&[]), false).expect("open");
        let mut down = response.await.expect("a head").into_body();
        for word in ["one", "two", "three"] {
            up.send_data(word.into(), false).expect("open");
            let echo = down.data().await.expect("an echo").expect("whole");
            assert_eq!(echo, word);
        }
        up.send_data(Bytes::new(), true).expect("open");
        assert_eq!(all(down).await, (Vec::new(), trailers("0")));
    });
}

#[test]
fn a_reset_of_either_side_reaches_the_other_with_its_reason() {
    run(async {
        let (told, mut resets) = mpsc::unbounded_channel();
        let mut behind = Behind::new();
        behind.serve(move |request, mut respond| {
            let told = told.clone();
            async move {
                match request.headers().get("reset") {
                    Some(_) => respond.send_reset(Reason::INADEQUATE_SECURITY),
                    // Before its head, and in the middle of its answer.
                    None => {
                        let mut stream = None;
                        if request.headers().contains_key("answer") {
                            let response = respond.send_response(Response::new(()), false);
                            stream = Some(response.expect("it listens"));
                        }
                        told.send(None).expect("the test");
                        let reason = match &mut stream {
                            Some(stream) => poll_fn(|context| stream.poll_reset(context)).await,
                            None => poll_fn(|context| respond.poll_reset(context)).await,
                        };
                        told.send(Some(reason.expect("a reason")))
                            .expect("the test");
                    }
                }
            }
        });
        let front = behind.front(|_| {});
        let mut sender = connect(front.address()).await;
        let (response, _) = sender
            .send_request(request(&[("reset", "now")]), true)
            .expect("open");
        let error = response.await.expect_err("a reset");
        assert_eq!(error.reason(), Some(Reason::INADEQUATE_SECURITY));
        for headers in [&[][..], &[("answer", "begun")][..]] {
            sender = sender.ready().await.expect("room");
            let (response, mut up) = sender.send_request(request(headers), false).expect("open");
            assert_eq!(resets.recv().await, Some(None));
            up.send_reset(Reason::CANCEL);
            assert_eq!(resets.recv().await, Some(Some(Reason::CANCEL)));
            drop(response);
        }
    });
}

#[test]
fn a_server_that_is_gone_is_unavailable_and_one_that_comes_back_is_found() {
    run(async {
        fn serve(behind: &mut Behind) {
            behind.serve(|request, mut respond| async move {
                let mut stream = respond
                    .send_response(Response::new(()), false)
                    .expect("it listens");
                if request.headers().contains_key("forever") {
                    std::future::pending::<()>().await;
                }
                stream.send_trailers(trailers("0")).expect("it listens");
            });
        }
        let mut behind = Behind::new();
        let front = behind.front(|_| {});
        let mut sender = connect(front.address()).await;
        for _ in 0..2 {
            let (response, _) = sender.send_request(request(&[]), true).expect("open");
            let response = response.await.expect("a refusal");
            assert_eq!(response.headers()["grpc-status"], "14");
            sender = sender.ready().await.expect("room");

            serve(&mut behind);
            let (response, _) = sender.send_request(request(&[]), true).expect("open");
            let body = response.await.expect("an answer").into_body();
            assert_eq!(all(body).await.1, trailers("0"));
            sender = sender.ready().await.expect("room");

            let (response, _) = sender
                .send_request(request(&[("forever", "yes")]), true)
                .expect("open");
            let mut body = response.await.expect("a head").into_body();
            behind.crash().await;
            let error = body.data().await.expect("an end").expect_err("a break");
            // gRPC reads it as UNAVAILABLE.
            assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
            sender = sender.ready().await.expect("room");
        }
    });
}

#[test]
fn large_bodies_pass_both_ways_whole() {
    const LENGTH: usize = 24 << 20;
    run(async {
        let mut behind = Behind::new();
        behind.serve(|request, mut respond| async move {
            let (data, _) = all(request.into_body()).await;
            assert!(data.len() >= LENGTH && data.iter().all(|byte| *byte == 7));
            let response = Response::builder().header("seen", data.len());
            let mut stream = respond
                .send_response(response.body(()).expect("a response"), false)
                .expect("it listens");
            pour(&mut stream, LENGTH, &AtomicUsize::new(0)).await;
            stream.send_trailers(trailers("0")).expect("it listens");
        });
        let front = behind.front(|_| {});
        let mut sender = connect(front.address()).await;
        let (response, mut up) = sender.send_request(request(&[]), false).expect("open");
        let sent = AtomicUsize::new(0);
        pour(&mut up, LENGTH, &sent).await;
        up.send_data(Bytes::new(), true).expect("open");
        let (head, body) = response.await.expect("an answer").into_parts();
        assert_eq!(
            head.headers["seen"],
            sent.load(Ordering::Relaxed).to_string()
        );
        let (data, ended) = all(body).await;
        assert!(data.len() >= LENGTH && data.iter().all(|byte| *byte == 7));
        assert_eq!(ended, trailers("0"));
    });
}

/// Tells when a call of the server has ended, in whatever way.
struct Ended(mpsc::UnboundedSender<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        // The test may be over.
        let _ = self.0.send(());
    }
}

/// A server that sends without end, and what it has sent so far.
fn endless(behind: &mut Behind) -> (Arc<AtomicUsize>, mpsc::UnboundedReceiver<()>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let (ended, ends) = mpsc::unbounded_channel();
    let sending = Arc::clone(&sent);
    behind.serve(move |_, mut respond| {
        let (sent, ended) = (Arc::clone(&sending), Ended(ended.clone()));
        async move {
            let mut stream = respond
                .send_response(Response::new(()), false)
                .expect("it listens");
            pour(&mut stream, usize::MAX, &sent).await;
            drop(ended);
        }
    });
    (sent, ends)
}

#[test]
fn a_client_that_never_reads_its_answer_stops_the_server_and_fills_no_memory() {
    run(async {
        let mut behind = Behind::new();
        let (sent, mut ends) = endless(&mut behind);
        let front = behind.front(|_| {});
        let mut sender = connect(front.address()).await;
        let (response, up) = sender.send_request(request(&[]), true).expect("open");
        let body = response.await.expect("a head").into_body();
        // Until nothing moves any more.
        let mut before = usize::MAX;
        while sent.load(Ordering::Relaxed) != before {
            before = sent.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let kept = usize::try_from(WINDOW_STREAM).expect("small") + (1 << 20);
        assert!((1..=kept).contains(&before), "{before} bytes are kept");
        drop((body, up));
        ends.recv().await.expect("the server is told");
    });
}

#[test]
fn a_client_that_takes_no_byte_off_its_socket_is_let_go() {
    run(async {
        let mut behind = Behind::new();
        let (_, mut ends) = endless(&mut behind);
        let front = behind.front(|settings| {
            settings.limits.stall = Duration::from_millis(300);
        });
        let mut client = Client::new(front.address());
        let wide = 0x7000_0000_u32.to_be_bytes();
        client.write(&frame(SETTINGS, 0, 0, &[&[0, 4][..], &wide].concat()));
        client.write(&frame(WINDOW_UPDATE, 0, 0, &wide));
        client.write(&frame(HEADERS, END_HEADERS, 1, &call("/a.Service/Method")));
        ends.recv().await.expect("the server is told");
    });
}
