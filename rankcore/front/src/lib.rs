//! The public socket of a replica: gRPC over HTTP/2.
//!
//! Calls of `muster.v1.RankingService` are answered here, from the socket to the ranking core and back, without a thread that
//! waits for each. Every other call is passed on unchanged to the server behind the front, which listens on a private unix
//! socket. Clients see one server.
//!
//! `tls` encrypts connections; `identity` decides who may call what, and how often, before anything else is done for a call.
//! `connection` reads calls, `limits` bounds what one client can make of that; `ranking` or `pass` takes each; `turn` hands ranking
//! calls to the engine, nearest deadline first, or to the `trial` of a candidate beside it; `shoppers` remembers what whom a search names did; `status` says why one is not answered.
//! Nothing here knows of Python.

pub mod buckets;
pub mod budget;
mod connection;
pub mod counts;
pub mod files;
pub mod histories;
pub mod identity;
pub mod limits;
pub mod message;
mod pass;
mod ranking;
pub mod receipts;
pub mod shoppers;
pub mod status;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod trace;
pub mod trial;
mod turn;

pub use ranking::Called;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rankcore_engine::engine::{Engine, Method};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle as Task, JoinSet};
use tokio::time::timeout;

use counts::{Counted, Counts};
use files::Look;
use identity::{Gate, Remote};
use limits::Limits;
use receipts::{KEY_BYTES, Receipts};
use shoppers::Shoppers;
use status::Failure;
use tls::Tls;
use trace::{Traced, Traces};
use trial::Trial;
use turn::Turn;

/// Settings of a front.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The unix socket of the server behind the front.
    pub upstream: Arc<Path>,
    /// Threads that read and write messages, at least 1; each connection stays on one.
    pub threads: usize,
    /// Largest request message of a ranking call.
    pub request_bytes_max: usize,
    /// Largest response message of a ranking call.
    pub response_bytes_max: usize,
    /// Calls of all kinds at once.
    pub requests_in_flight_max: usize,
    /// Connections at once; one more is closed as soon as it is accepted.
    pub connections_max: usize,
    /// What one connection may do.
    pub limits: Limits,
    /// Budget of a ranking call that names none, microseconds.
    pub default_us: i64,
    /// Longest budget of a ranking call, microseconds.
    pub max_us: i64,
    /// How connections are encrypted; `None`: not at all.
    pub tls: Option<tls::Settings>,
    /// How callers are known; `None`: nobody is asked.
    pub identity: Option<identity::Settings>,
    /// How often callers may call.
    pub quota: identity::Quota,
    /// Time between looks at files that may change.
    pub look_every: Duration,
}

/// What the log must tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A ranking call failed by a fault of ours.
    Failed(Failure),
    /// Files have changed.
    Looked(Look),
    /// An operator's call was refused.
    Denied {
        /// The method's.
        path: String,
        /// Where the caller is.
        address: IpAddr,
        /// Who it is, where that is certain.
        subject: Option<String>,
        /// Why.
        reason: &'static str,
    },
}

/// What all connections share.
struct Shared {
    settings: Settings,
    engine: ArcSwapOption<Engine>,
    trial: ArcSwapOption<Trial>,
    /// `None`: answers get no ids.
    receipts: ArcSwapOption<Receipts>,
    /// `None`: nothing is remembered of anybody.
    shoppers: ArcSwapOption<Shoppers>,
    /// `None`: encrypts nothing.
    tls: Option<Tls>,
    /// `None`: the settings ask nothing of callers.
    gate: Option<Gate>,
    handshakes_failed: AtomicU64,
    in_flight: AtomicUsize,
    connections: AtomicUsize,
    search: Counts,
    rerank: Counts,
    recommend: Counts,
    /// `Some`: no new calls; those that run have so long to end.
    draining: watch::Sender<Option<Duration>>,
    news: SyncSender<News>,
    traces: Traces,
}

impl Shared {
    fn counts(&self, method: Called) -> &Counts {
        match method {
            Called::Ranked(Method::Search) => &self.search,
            Called::Ranked(Method::Rerank) => &self.rerank,
            Called::Recommend => &self.recommend,
        }
    }

    fn tell(&self, news: News) {
        // Where nobody keeps up with reading them, the oldest say enough.
        let _ = self.news.try_send(news);
    }

    /// Looks at the files that may have changed.
    fn look(&self) {
        let tls = self.tls.as_ref().and_then(Tls::look);
        let gate = self.gate.as_ref().map(Gate::look).unwrap_or_default();
        for look in tls.into_iter().chain(gate) {
            self.tell(News::Looked(look));
        }
    }
}

/// News that wait to be logged.
const NEWS_MAX: usize = 256;

/// Connections that the system may finish before they are accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// The front: bound when made, so that a port in use is found before anything is loaded; answers after [`Front::start`].
pub struct Front {
    shared: Arc<Shared>,
    address: SocketAddr,
    listener: Mutex<Option<TcpListener>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    news: Mutex<Receiver<News>>,
}

impl Front {
    /// Takes the address `listen`, `host:port`.
    ///
    /// # Errors
    /// Those of the system: the address cannot be resolved, or taken. `InvalidInput`: what the settings name cannot be used, such
    /// as a certificate; one sentence.
    pub fn bind(listen: &str, settings: Settings) -> io::Result<Self> {
        let unusable = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        let tls = settings.tls.clone().map(Tls::new).transpose();
        let tls = tls.map_err(unusable)?;
        let gate = gate(&settings).map_err(unusable)?;
        let listener = bind(listen)?;
        let (sender, receiver) = sync_channel(NEWS_MAX);
        Ok(Self {
            address: listener.local_addr()?,
            listener: Mutex::new(Some(listener)),
            threads: Mutex::new(Vec::new()),
            news: Mutex::new(receiver),
            shared: Arc::new(Shared {
                settings,
                engine: ArcSwapOption::empty(),
                trial: ArcSwapOption::empty(),
                receipts: ArcSwapOption::empty(),
                shoppers: ArcSwapOption::empty(),
                tls,
                gate,
                handshakes_failed: AtomicU64::new(0),
                in_flight: AtomicUsize::new(0),
                connections: AtomicUsize::new(0),
                search: Counts::default(),
                rerank: Counts::default(),
                recommend: Counts::default(),
                draining: watch::channel(None).0,
                news: sender,
                traces: Traces::default(),
            }),
        })
    }

    /// The address taken.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to answer. Ranking calls are UNAVAILABLE until [`Front::serve`].
    ///
    /// # Errors
    /// Those of the system, where it refuses a thread.
    pub fn start(&self) -> io::Result<()> {
        let Some(listener) = self.listener.lock().take() else {
            return Ok(());
        };
        let mut listener = Some(listener);
        let mut senders = Vec::new();
        let mut receivers = Vec::new();
        for _ in 0..self.shared.settings.threads.max(1) {
            let (sender, receiver) = mpsc::unbounded_channel();
            senders.push(sender);
            receivers.push(receiver);
        }
        for (number, receiver) in receivers.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build()?;
            let shared = Arc::clone(&self.shared);
            // The first thread also accepts.
            let accepts = listener.take().map(|listener| (listener, senders.clone()));
            let thread = std::thread::Builder::new()
                .name(format!("front-{number}"))
                .spawn(move || {
                    runtime.block_on(async {
                        if let Some((listener, senders)) = accepts {
                            tokio::spawn(accept(listener, senders, Arc::clone(&shared)));
                            tokio::spawn(look(Arc::clone(&shared)));
                        }
                        talk(receiver, shared).await;
                    });
                })?;
            self.threads.lock().push(thread);
        }
        Ok(())
    }

    /// Serves one connection over anything that reads and writes, in the caller's runtime, until it ends.
    pub async fn converse<IO>(&self, io: IO, address: IpAddr)
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (turn, planning) = take_turns(&self.shared);
        let remote = Remote {
            address,
            certificate: None,
        };
        connection::serve(io, remote, Arc::clone(&self.shared), turn).await;
        planning.abort();
    }

    /// Answers get ids from now on, signed with this key.
    pub fn sign_receipts(&self, key: [u8; KEY_BYTES]) {
        self.shared
            .receipts
            .store(Some(Arc::new(Receipts::new(key))));
    }

    /// Searches that name a shopper or a visit are told of these from now on.
    pub fn remember(&self, shoppers: Arc<Shoppers>) {
        self.shared.shoppers.store(Some(shoppers));
    }

    /// Ranking calls are answered by this engine from now on.
    pub fn serve(&self, engine: Arc<Engine>) {
        self.shared.engine.store(Some(engine));
    }

    /// Tries a candidate out beside the serving engine from now on; `None`: no candidate any more.
    pub fn try_out(&self, trial: Option<Arc<Trial>>) {
        self.shared.trial.store(trial);
    }

    /// The trial under way.
    #[must_use]
    pub fn trial(&self) -> Option<Arc<Trial>> {
        self.shared.trial.load_full()
    }

    /// Refuses new calls, lets running ones end, breaks off those that outlive the grace. Idempotent.
    pub fn stop(&self, grace: Duration) {
        drop(self.listener.lock().take());
        self.shared.draining.send_replace(Some(grace));
        let threads: Vec<_> = self.threads.lock().drain(..).collect();
        for thread in threads {
            let _ = thread.join();
        }
        self.shared.trial.store(None);
        self.shared.engine.store(None);
    }

    /// What was counted of `method`.
    #[must_use]
    pub fn counted(&self, method: Called) -> Counted {
        self.shared.counts(method).read()
    }

    /// Traces ranking calls from now on, see [`Traces::sample`].
    pub fn sample(&self, share: Option<f64>) {
        self.shared.traces.sample(share);
    }

    /// The next call that was traced, if one ends within `wait`.
    #[must_use]
    pub fn traced(&self, wait: Duration) -> Option<Traced> {
        self.shared.traces.next(wait)
    }

    /// What was counted of callers, if anything is asked of them.
    #[must_use]
    pub fn callers(&self) -> Option<identity::Counted> {
        self.shared.gate.as_ref().map(Gate::counted)
    }

    /// What was counted of encrypted connections: when the certificate in force ends, Unix seconds; greetings that failed;
    /// the certificate's files as of files that may change. `None`: nothing is encrypted.
    #[must_use]
    pub fn encrypted(&self) -> Option<(i64, u64, (&'static str, u64, u64))> {
        let tls = self.shared.tls.as_ref()?;
        let failed = self.shared.handshakes_failed.load(Ordering::Relaxed);
        Some((tls.not_after_s(), failed, tls.counted()))
    }

    /// Looks at once at the files that may have changed.
    pub fn look(&self) {
        self.shared.look();
    }

    /// The next thing that the log must tell, if it comes within `wait`.
    #[must_use]
    pub fn news(&self, wait: Duration) -> Option<News> {
        self.news.lock().recv_timeout(wait).ok()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// `None`: nothing is asked of callers, and a call costs nothing more for it.
fn gate(settings: &Settings) -> Result<Option<Gate>, String> {
    let (identity, quota) = (settings.identity.clone(), settings.quota.clone());
    if identity.is_none() && quota.each.is_none() && quota.named.is_empty() {
        return Ok(None);
    }
    Gate::new(identity, quota).map(Some)
}

/// Looks at the files that may change, now and then, until a drain.
async fn look(shared: Arc<Shared>) {
    if shared.tls.is_none() && shared.gate.is_none() {
        return;
    }
    let mut draining = shared.draining.subscribe();
    loop {
        tokio::select! {
            () = tokio::time::sleep(shared.settings.look_every) => {}
            _ = draining.wait_for(Option::is_some) => return,
        }
        // A disk that is slow holds up no call.
        let looking = Arc::clone(&shared);
        let _ = tokio::task::spawn_blocking(move || looking.look()).await;
    }
}

/// Two replicas on one port would share its calls at random; the second must fail instead, so the port is never shared. One
/// that a replica has just left can be taken at once (the standard library sets SO_REUSEADDR).
fn bind(listen: &str) -> io::Result<TcpListener> {
    let mut failed = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host has no address");
    for address in listen.to_socket_addrs()? {
        match TcpListener::bind(address) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                return Ok(listener);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// A connection counts as open while this lives.
struct Open(Arc<Shared>);

impl Open {
    /// `None`: there are too many.
    fn begin(shared: &Arc<Shared>) -> Option<Self> {
        let before = shared.connections.fetch_add(1, Ordering::Relaxed);
        let begun = Self(Arc::clone(shared));
        (before < shared.settings.connections_max).then_some(begun)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection on its way to its thread.
struct Accepted {
    stream: TcpStream,
    address: IpAddr,
    open: Open,
}

/// Accepts connections and deals them out to the threads in turn, until a drain.
async fn accept(
    listener: TcpListener,
    threads: Vec<mpsc::UnboundedSender<Accepted>>,
    shared: Arc<Shared>,
) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    let mut draining = shared.draining.subscribe();
    for thread in threads.iter().cycle() {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = draining.wait_for(Option::is_some) => return,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of descriptors, most likely: some are given back soon.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Clients of a full replica try another one at once; those that had to wait in the system's queue would not.
        let Some(open) = Open::begin(&shared) else {
            continue;
        };
        // One that fails here has broken meanwhile.
        if let Ok(stream) = stream.set_nodelay(true).and_then(|()| stream.into_std()) {
            let address = peer.ip();
            let _ = thread.send(Accepted {
                stream,
                address,
                open,
            });
        }
    }
}

/// A queue of calls, and the task that hands them to the engine until it is aborted.
fn take_turns(shared: &Arc<Shared>) -> (Arc<Turn>, Task<()>) {
    let turn = Arc::new(Turn::default());
    let planning = {
        let (turn, shared) = (Arc::clone(&turn), Arc::clone(shared));
        tokio::spawn(async move { turn.run(&shared).await })
    };
    (turn, planning)
}

/// Serves one connection, encrypted where the settings say so.
async fn greet(
    stream: tokio::net::TcpStream,
    address: IpAddr,
    shared: Arc<Shared>,
    turn: Arc<Turn>,
) {
    let mut remote = Remote {
        address,
        certificate: None,
    };
    let Some(tls) = &shared.tls else {
        return connection::serve(stream, remote, shared, turn).await;
    };
    let limit = shared.settings.limits.handshake;
    let Ok(Ok((stream, certificate))) = timeout(limit, tls.greet(stream)).await else {
        shared.handshakes_failed.fetch_add(1, Ordering::Relaxed);
        return;
    };
    remote.certificate = certificate;
    connection::serve(stream, remote, shared, turn).await;
}

/// Serves the connections of one thread until a drain has ended.
async fn talk(mut dealt: mpsc::UnboundedReceiver<Accepted>, shared: Arc<Shared>) {
    let (turn, planning) = take_turns(&shared);
    let mut connections = JoinSet::new();
    let mut draining = shared.draining.subscribe();
    loop {
        tokio::select! {
            Some(accepted) = dealt.recv() => {
                let Ok(stream) = tokio::net::TcpStream::from_std(accepted.stream) else { continue };
                let (shared, turn) = (Arc::clone(&shared), Arc::clone(&turn));
                connections.spawn(async move {
                    greet(stream, accepted.address, shared, turn).await;
                    drop(accepted.open);
                });
            }
            Some(_) = connections.join_next() => {}
            _ = draining.wait_for(Option::is_some) => break,
        }
    }
    let grace = shared.draining.borrow().unwrap_or_default();
    let _ = timeout(grace, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    planning.abort();
}
