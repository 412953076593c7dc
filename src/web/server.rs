//! The accept loop of a pod: accepts TCP sockets and serves HTTP/1.1 on each of them.
//!
//! Everything that a peer could delay before its socket becomes a connection has a limit. A
//! WebSocket or a stream takes over the plain [`TcpStream`], so nothing may stay wrapped around the
//! socket. The loop must never wait for one peer on behalf of another, unless all places for
//! pending sockets are taken.

mod body;
mod bounds;
mod full;
mod handoff;
mod head;
mod outage;
mod peer;
mod pending;
mod proxies;
mod tracked;

use std::{
    convert::Infallible,
    future, io,
    net::SocketAddr,
    pin::{self, pin},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Method, Request},
    response::Response,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::mpsc,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service as _;

pub(super) use self::head::encode_head;
use self::{
    body::TrackedBody, handoff::PendingHandoff, outage::Outage, pending::PendingSockets,
    tracked::TrackedSocket,
};
pub use self::{
    bounds::Bounds,
    handoff::{HandoffRequest, SocketHandoff},
    peer::Peer,
    proxies::TrustedProxies,
};

/// The largest head of a request, in bytes. The largest token and a document in the URL fit into it
/// three times. A larger head is refused with 431.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Pending sockets at a time: those that have not become a connection. At the limit the socket that
/// has been silent longest is closed. If a request runs on each, further sockets wait. The head and
/// the body of each may be in memory, so this bounds what pending sockets can hold.
const MAX_PENDING_SOCKETS: usize = 1_024;

/// How long a request may go on once the pod drains. The [`drain`](crate::pod::drain) waits longer
/// for tasks, so one slow request does not cut it off.
pub const LAST_REQUEST: Duration = Duration::from_secs(4);

/// Delay between two tries to accept while the system has no file descriptor left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(200);

/// How long the kernel lets a peer acknowledge or take nothing of what was written to it. Then the
/// socket ends. A dead machine, or a client that has stopped reading, holds no buffer for longer.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(25);

/// TCP keep-alive. The kernel probes the peer after 25 s of silence, then every 5 s until the
/// timeout above has passed.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(25)).with_interval(Duration::from_secs(5));

/// Runs the accept loop until `stop` is cancelled, then waits until the requests under way are
/// answered.
///
/// It does not wait for the sockets of connections: the tasks of the connections own them.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken, bounds: Bounds) {
    serve_with_places(listener, router, stop, bounds, MAX_PENDING_SOCKETS).await;
}

async fn serve_with_places(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    bounds: Bounds,
    places: usize,
) {
    let (sockets, pending) = (TaskTracker::new(), PendingSockets::new(places, bounds));
    let accept = async {
        let mut outage = Outage::default();
        loop {
            let Some((stream, address)) = accept(&listener, &mut outage).await else { continue };
            let peer = Peer::new(address.ip(), pending.enter(address).await);
            sockets.spawn(drive(stream, peer, router.clone(), stop.clone()));
        }
    };
    select! {
        () = stop.cancelled() => {}
        () = accept => {}
        () = pending.close_late() => {}
    }
    drop(listener);
    sockets.close();
    sockets.wait().await;
}

async fn accept(listener: &TcpListener, outage: &mut Outage) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok((stream, address)) => {
            if let Some(failures) = outage.succeed() {
                tracing::info!(failures, "accepts sockets again");
            }
            return Some((stream, address));
        }
        Err(error) if is_peer_fault(&error) => {}
        Err(error) => {
            if outage.fail() {
                tracing::error!(
                    %error,
                    "cannot accept: raise the limit of open files, or lower RELAY_MAX_CONNECTIONS"
                );
            }
            sleep(ACCEPT_RETRY_DELAY).await;
        }
    }
    None
}

/// Serves the requests on a socket until it is closed, or until a WebSocket or a stream takes it
/// over.
async fn drive(stream: TcpStream, peer: Peer, router: Router, stop: CancellationToken) {
    if let Err(error) = prepare(&stream) {
        tracing::debug!(%error, "socket without its options");
    }
    // The values are boxed, since a channel allocates room for many at once.
    let (sender, mut handoffs) = mpsc::channel(1);
    let activity = peer.place().activity.clone();
    let _place = peer.clone();
    let service = service_fn(move |request| answer(request, peer.clone(), router.clone(), sender.clone()));
    let mut http = http1::Builder::new();
    // hyper's header timeout would also count keep-alive idle time. It is off; `PendingSockets`
    // enforces ours.
    http.header_read_timeout(None).max_buf_size(MAX_HEAD_BYTES);
    // A client that will send no more still waits for its answer (RFC 9112, section 9.6).
    http.half_close(true);
    let io = TokioIo::new(TrackedSocket::new(stream, activity.clone()));
    let mut served = http.serve_connection(io, service);
    let mut deadline = pin!(async {
        stop.cancelled().await;
        sleep(LAST_REQUEST).await;
    });
    let mut is_last = false;
    let result = loop {
        select! {
            result = &mut served => break result,
            Some(handoff) = handoffs.recv() => {
                // hyper's buffer is lost. It can hold an earlier answer, to a client that pipelines
                // requests and does not read.
                let parts = served.into_parts();
                handoff.complete(parts.io.into_inner().into_inner(), parts.read_buf);
                return;
            }
            () = stop.cancelled(), if !is_last => {
                is_last = true;
                pin::Pin::new(&mut served).graceful_shutdown();
            }
            () = activity.close_requested() => {
                if activity.may_end() {
                    return;
                }
                pin::Pin::new(&mut served).graceful_shutdown();
            }
            () = &mut deadline => return,
        }
    };
    if activity.is_refused() {
        let socket = served.into_parts().io.into_inner().into_inner();
        return Box::pin(full::refuse(socket)).await;
    }
    if let Err(error) = result {
        tracing::trace!(%error, "socket ended");
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Frames are small and urgent. Nagle's algorithm would delay them to fill a packet.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

/// Returns the router's answer. A stream is handed off instead, since hyper would keep buffers for
/// as long as it lasts.
async fn answer(
    request: Request<Incoming>,
    peer: Peer,
    mut router: Router,
    handoffs: mpsc::Sender<Box<PendingHandoff>>,
) -> Result<Response, Infallible> {
    let (version, has_body) = (request.version(), request.method() != Method::HEAD);
    let activity = peer.place().activity.clone();
    let peer = peer.of_request(request.headers());
    activity.on_request(peer.address());
    let mut request = request.map(|body| Body::new(TrackedBody::new(body, activity.clone())));
    request.extensions_mut().insert(peer);
    let mut response = router.call(request).await?;
    match HandoffRequest::take(&mut response).filter(|_| has_body) {
        Some(request) => {
            // Never waits: the channel has room for the one answer of a socket.
            let _ = handoffs.send(Box::new(request.answer(version, response))).await;
            future::pending().await
        }
        None => {
            activity.on_answer();
            Ok(response)
        }
    }
}

/// Reports whether the peer caused the error: its socket was closed before it was accepted.
fn is_peer_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{Extension, routing::get};
    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::SdkMeterProvider;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpSocket,
        time::{Instant, timeout},
    };

    use super::*;
    use crate::{budget::Budget, telemetry::Refusals};

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    /// Starts a server with this many places. Returns a function that connects to it.
    async fn server(places: usize) -> impl AsyncFn() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        serve_on(listener, places);
        async move || TcpStream::connect(address).await.unwrap()
    }

    fn serve_on(listener: TcpListener, places: usize) {
        let router = Router::new()
            .route("/", get(async || "answer").post(async |body: String| body))
            .route("/user", get(async |Extension(peer): Extension<Peer>| peer.is_of(&another_user())))
            .route("/slow", get(async || sleep(Duration::from_secs(60)).await));
        let (stop, meter) = (CancellationToken::new(), SdkMeterProvider::default().meter("test"));
        let bounds = Bounds {
            requests: Budget::default().requests,
            refusals: Refusals::new(&meter),
            trusted: TrustedProxies::default(),
        };
        TaskTracker::new().spawn(serve_with_places(listener, router, stop, bounds, places));
    }

    fn another_user() -> Arc<str> {
        uuid::Uuid::now_v7().to_string().into()
    }

    async fn ask(socket: &mut TcpStream) {
        socket.write_all(REQUEST).await.unwrap();
        let mut answer = [0; 1_024];
        let length = socket.read(&mut answer).await.unwrap();
        assert!(answer[..length].ends_with(b"answer"), "{:?}", String::from_utf8_lossy(&answer[..length]));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_socket_outlives_keep_alive_of_balancers() {
        let connect = server(1).await;
        let mut socket = connect().await;
        for idle in [11, 600] {
            ask(&mut socket).await;
            sleep(Duration::from_secs(idle)).await;
        }
        ask(&mut socket).await;
        let began = Instant::now();
        assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
        assert!((620..=622).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn slow_head_of_any_request_closes_socket() {
        for answered in [0, 1, 2] {
            let connect = server(1).await;
            let mut socket = connect().await;
            for _ in 0..answered {
                ask(&mut socket).await;
                sleep(Duration::from_secs(60)).await;
            }
            let began = Instant::now();
            socket.write_all(&REQUEST[..20]).await.unwrap();
            // One byte each second, also after the server has closed the socket.
            while timeout(Duration::from_secs(1), socket.read(&mut [0])).await.is_err() {
                let _ = socket.write_all(b"x").await;
            }
            assert!((10..=12).contains(&began.elapsed().as_secs()), "{answered}: {:?}", began.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn longest_idle_socket_gives_up_its_place() {
        let connect = server(2).await;
        let [mut first, mut second] = [connect().await, connect().await];
        for socket in [&mut first, &mut second] {
            ask(socket).await;
            sleep(Duration::from_secs(1)).await;
        }
        let began = Instant::now();
        let mut third = connect().await;
        ask(&mut third).await;
        assert!(began.elapsed() < ACCEPT_RETRY_DELAY, "{:?}", began.elapsed());
        assert_eq!(first.read(&mut [0]).await.unwrap(), 0);
        ask(&mut second).await;
    }

    #[tokio::test(start_paused = true)]
    async fn crowded_address_gives_up_a_place_first() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        serve_on(listener, 3);
        let connect = async |from: [u8; 4]| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((from, 0).into()).unwrap();
            let socket = socket.connect(address).await.unwrap();
            sleep(Duration::from_secs(1)).await;
            socket
        };
        let mut alone = connect([127, 0, 0, 2]).await;
        let [mut first, mut second] = [connect([127, 0, 0, 3]).await, connect([127, 0, 0, 3]).await];
        ask(&mut connect([127, 0, 0, 4]).await).await;
        assert_eq!(first.read(&mut [0]).await.unwrap_or_default(), 0, "its address has most places");
        ask(&mut alone).await;
        ask(&mut second).await;
    }

    #[tokio::test(start_paused = true)]
    async fn idle_socket_of_user_outlives_its_address() {
        let connect = server(3).await;
        let mut of_user = connect().await;
        of_user.write_all(b"GET /user HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        assert!(of_user.read(&mut [0; 1_024]).await.unwrap() > 0);
        let mut silent = Vec::new();
        for _ in 0..10 {
            sleep(Duration::from_secs(1)).await;
            silent.push(connect().await);
        }
        sleep(Duration::from_secs(1)).await;
        ask(&mut of_user).await;
        assert_eq!(silent[0].read(&mut [0]).await.unwrap_or_default(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn places_change_while_owners_change() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        serve_on(listener, 20);
        let tasks = TaskTracker::new();
        for _ in 0..40 {
            tasks.spawn(async move {
                for _ in 0..50 {
                    let mut socket = TcpStream::connect(address).await.unwrap();
                    for _ in 0..5 {
                        let _ = socket.write_all(b"GET /user HTTP/1.1\r\nhost: a\r\n\r\n").await;
                        let _ = socket.read(&mut [0; 1_024]).await;
                    }
                }
            });
        }
        tasks.close();
        timeout(Duration::from_secs(60), tasks.wait()).await.unwrap();
        ask(&mut TcpStream::connect(address).await.unwrap()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn silent_head_or_body_gives_up_its_place() {
        let post = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nx".as_slice();
        for silent in [b"".as_slice(), b"GET", post] {
            let connect = server(2).await;
            let [mut first, mut second] = [connect().await, connect().await];
            for socket in [&mut first, &mut second] {
                socket.write_all(silent).await.unwrap();
                sleep(Duration::from_secs(1)).await;
            }
            let began = Instant::now();
            ask(&mut connect().await).await;
            assert!(began.elapsed() < ACCEPT_RETRY_DELAY, "{:?}", began.elapsed());
            assert_eq!(first.read(&mut [0]).await.unwrap_or_default(), 0, "the oldest one was closed");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn running_request_is_neither_late_nor_idle() {
        let connect = server(1).await;
        let mut slow = connect().await;
        slow.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        // Until the head was read, the socket is silent, and may give up its place.
        sleep(Duration::from_secs(1)).await;
        let mut next = connect().await;
        let began = Instant::now();
        ask(&mut next).await;
        assert!((58..=61).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        let mut answer = Vec::new();
        slow.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&answer));
    }
}
