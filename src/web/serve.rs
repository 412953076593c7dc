//! The accept loop: HTTP/1.1 on every socket, with an end to whatever a peer could drag out before it is a connection.
//!
//! It hands the plain [`TcpStream`] on to whoever upgrades, so nothing may be wrapped around it. It never waits for one
//! peer on behalf of another.

use std::{
    io,
    net::IpAddr,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    http::{Extensions, Request},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service as _;

/// How long the head of a request may take, and how long a socket may be idle before the next.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest head, in bytes: the largest token, and a document in the URL, fit thrice.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Sockets that have not become a connection; the next wait in the system's queue. A head and a body of each may be in
/// memory, so this is what strangers can take.
const MAX_STRANGERS: usize = 1_024;

/// How long a request may go on once the pod drains: longer than a publish may take (5 s).
const LAST_REQUEST: Duration = Duration::from_secs(6);

/// Between two tries to accept while the system has no file descriptor left.
const BREATH: Duration = Duration::from_millis(200);

/// What a handler may know of the socket that its request came by.
#[derive(Clone)]
pub struct Socket {
    peer: IpAddr,
    /// Held as long as the socket has not become a connection.
    stranger: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Socket {
    /// The socket of a request, by its extensions.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// Whose it is: the peer, or the balancer in front of it.
    #[must_use]
    pub const fn peer(&self) -> IpAddr {
        self.peer
    }

    /// The socket is a connection from now on, and counted as one.
    pub fn is_connection_now(&self) {
        self.stranger.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn is_stranger(&self) -> bool {
        self.stranger.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// Serves until it is told to stop, and then until the requests under way are answered. Upgraded sockets are their owners'.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let (sockets, room) = (TaskTracker::new(), Arc::new(Semaphore::new(MAX_STRANGERS)));
    loop {
        let next = async {
            let permit = room.clone().acquire_owned().await.expect("nobody closes it");
            (permit, listener.accept().await)
        };
        let (permit, accepted) = select! {
            () = stop.cancelled() => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, address)) => {
                let stranger = Arc::new(Mutex::new(Some(permit)));
                let socket = Socket { peer: address.ip().to_canonical(), stranger };
                sockets.spawn(drive(stream, socket, router.clone(), stop.clone()));
            }
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept");
                sleep(BREATH).await;
            }
        }
    }
    drop(listener);
    sockets.close();
    sockets.wait().await;
}

async fn drive(stream: TcpStream, socket: Socket, router: Router, stop: CancellationToken) {
    // Frames are small and each matters now: no waiting for more to fill a packet.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "socket without TCP_NODELAY");
    }
    let handle = socket.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(handle.clone());
        router.clone().call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD_BYTES);
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let result = select! {
        result = served.as_mut() => result,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            match socket.is_stranger() {
                true => timeout(LAST_REQUEST, served).await.unwrap_or(Ok(())),
                // Its own end is near: each connection hears of the drain.
                false => served.await,
            }
        }
    };
    if let Err(error) = result {
        tracing::trace!(%error, "socket ended");
    }
}

/// Whether the peer is to blame, who is gone already.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
