//! The accept loop: HTTP/1.1 on every socket, with an end to whatever a peer could drag out before it is a connection.
//!
//! It hands the plain [`TcpStream`] on to whoever upgrades, and to whoever writes a body that goes on, so nothing may be left
//! around it. It never waits for one peer on behalf of another, unless all places are taken.

mod handoff;
mod peer;
mod pending;
mod tracked;

use std::{
    convert::Infallible,
    future, io,
    net::IpAddr,
    pin::{self, pin},
    time::Duration,
};

use axum::{
    Router,
    http::{Method, Request},
    response::Response,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::mpsc,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service as _;

pub(super) use self::tracked::TrackedSocket;
use self::{handoff::PendingHandoff, pending::PendingSockets};
pub use self::{
    handoff::{HandoffRequest, SocketHandoff},
    peer::Peer,
};

/// The largest head, in bytes: the largest token, and a document in the URL, fit thrice.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Sockets that have not become a connection; the next wait until one leaves, or gives up its place because it is idle. A head
/// and a body of each may be in memory, so this is what pending sockets can take.
const MAX_PENDING_SOCKETS: usize = 1_024;

/// How long a request may go on once the pod drains. A drain waits for it no longer than
/// [`CLOSE_TIMEOUT`](crate::pod::drain::CLOSE_TIMEOUT), and one straggler must not cut it off.
pub const LAST_REQUEST: Duration = Duration::from_secs(4);

/// Between two tries to accept while the system has no file descriptor left.
const BREATH: Duration = Duration::from_millis(200);

/// How long the kernel lets a peer acknowledge nothing, or take nothing, of what was written to it: a machine that is gone, or
/// a client that has stopped to read, holds no buffer for longer.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(25);

/// After so much silence the kernel asks a peer whether it is there, and then every five seconds until the
/// timeout above has passed.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(25)).with_interval(Duration::from_secs(5));

/// Serves until it is told to stop, and then until the requests under way are answered. Sockets of connections are their
/// owners'.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    serve_some(listener, router, stop, MAX_PENDING_SOCKETS).await;
}

async fn serve_some(listener: TcpListener, router: Router, stop: CancellationToken, pending: usize) {
    let (sockets, pending) = (TaskTracker::new(), PendingSockets::new(pending));
    let accept = async {
        loop {
            let Some((stream, address)) = accept(&listener).await else { continue };
            let peer = Peer::new(address, pending.enter().await);
            sockets.spawn(drive(stream, peer, router.clone(), stop.clone()));
        }
    };
    select! {
        () = stop.cancelled() => {}
        () = accept => {}
        () = pending.watch() => {}
    }
    drop(listener);
    sockets.close();
    sockets.wait().await;
}

async fn accept(listener: &TcpListener) -> Option<(TcpStream, IpAddr)> {
    match listener.accept().await {
        Ok((stream, address)) => return Some((stream, address.ip().to_canonical())),
        Err(error) if is_the_peers(&error) => {}
        Err(error) => {
            tracing::error!(%error, "cannot accept");
            sleep(BREATH).await;
        }
    }
    None
}

/// Serves the requests on a socket, until it is closed or somebody else's: a WebSocket's, or a stream's.
async fn drive(stream: TcpStream, peer: Peer, router: Router, stop: CancellationToken) {
    if let Err(error) = prepare(&stream) {
        tracing::debug!(%error, "socket without its options");
    }
    // Boxed, since a channel has room for many at once.
    let (sender, mut handoffs) = mpsc::channel(1);
    let turns = peer.place().turns.clone();
    let service = service_fn(move |request| answer(request, peer.clone(), router.clone(), sender.clone()));
    let mut http = http1::Builder::new();
    // Its own would count the time before a head to the head; ours is the pending sockets'.
    http.header_read_timeout(None).max_buf_size(MAX_HEAD_BYTES);
    let mut served =
        http.serve_connection(TrackedSocket::new(stream, turns.clone()), service).with_upgrades();
    let mut patience = pin!(async {
        stop.cancelled().await;
        sleep(LAST_REQUEST).await;
    });
    let mut is_last = false;
    let result = loop {
        select! {
            result = &mut served => break result,
            Some(handoff) = handoffs.recv() => {
                // An answer before, to a client that pipelines and does not read, is lost with hyper's buffer.
                if let Some(parts) = served.into_parts() {
                    handoff.complete(parts.io.into_inner());
                }
                return;
            }
            () = stop.cancelled(), if !is_last => {
                is_last = true;
                pin::Pin::new(&mut served).graceful_shutdown();
            }
            () = turns.over() => {
                if turns.is_late() {
                    return;
                }
                pin::Pin::new(&mut served).graceful_shutdown();
            }
            () = &mut patience => return,
        }
    };
    if let Err(error) = result {
        tracing::trace!(%error, "socket ended");
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Frames are small and each matters now: no waiting for more to fill a packet.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

/// The router's answer. One that is a stream is not given to hyper, which would keep buffers as long as it lasts.
async fn answer(
    mut request: Request<Incoming>,
    peer: Peer,
    mut router: Router,
    handoffs: mpsc::Sender<Box<PendingHandoff>>,
) -> Result<Response, Infallible> {
    let (version, has_body) = (request.version(), request.method() != Method::HEAD);
    let turns = peer.place().turns.clone();
    turns.asked();
    request.extensions_mut().insert(peer);
    let response = router.call(request).await?;
    let response = match has_body {
        true => HandoffRequest::take(response, version),
        false => Err(response),
    };
    match response {
        Ok(handoff) => {
            // There is room for the one answer that a socket waits for.
            let _ = handoffs.send(Box::new(handoff)).await;
            future::pending().await
        }
        Err(response) => {
            turns.answered();
            Ok(response)
        }
    }
}

/// Whether the peer is to blame, who is gone already.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::{Instant, timeout},
    };

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    /// A server with so many places, and how to connect to it.
    async fn server(pending: usize) -> impl AsyncFn() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", get(async || "answer"))
            .route("/slow", get(async || sleep(Duration::from_secs(60)).await));
        TaskTracker::new().spawn(serve_some(listener, router, CancellationToken::new(), pending));
        async move || TcpStream::connect(address).await.unwrap()
    }

    async fn ask(socket: &mut TcpStream) {
        socket.write_all(REQUEST).await.unwrap();
        let mut answer = [0; 1_024];
        let length = socket.read(&mut answer).await.unwrap();
        assert!(answer[..length].ends_with(b"answer"), "{:?}", String::from_utf8_lossy(&answer[..length]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_socket_still_answers_for_as_long_as_balancers_keep_one() {
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
    async fn a_slow_head_is_cut_off_whichever_it_is_on_its_socket() {
        for answered in [0, 1, 2] {
            let connect = server(1).await;
            let mut socket = connect().await;
            for _ in 0..answered {
                ask(&mut socket).await;
                sleep(Duration::from_secs(60)).await;
            }
            let began = Instant::now();
            socket.write_all(&REQUEST[..20]).await.unwrap();
            // A byte each second, whether it is still taken or not.
            while timeout(Duration::from_secs(1), socket.read(&mut [0])).await.is_err() {
                let _ = socket.write_all(b"x").await;
            }
            assert!((10..=12).contains(&began.elapsed().as_secs()), "{answered}: {:?}", began.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_been_idle_for_longest_gives_up_its_place_at_once() {
        let connect = server(2).await;
        let [mut first, mut second] = [connect().await, connect().await];
        for socket in [&mut first, &mut second] {
            ask(socket).await;
            sleep(Duration::from_secs(1)).await;
        }
        let began = Instant::now();
        let mut third = connect().await;
        ask(&mut third).await;
        assert!(began.elapsed() < BREATH, "{:?}", began.elapsed());
        assert_eq!(first.read(&mut [0]).await.unwrap(), 0);
        ask(&mut second).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_being_run_is_neither_late_nor_idle() {
        let connect = server(1).await;
        let mut slow = connect().await;
        slow.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut next = connect().await;
        let began = Instant::now();
        ask(&mut next).await;
        assert!((60..=61).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        let mut answer = Vec::new();
        slow.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&answer));
    }
}
