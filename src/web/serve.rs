//! The accept loop: HTTP/1.1 on every socket, with an end to whatever a peer could drag out before it is a connection.
//!
//! It hands the plain [`TcpStream`] on to whoever upgrades, and to whoever writes a body that goes on, so nothing may be wrapped
//! around it. It never waits for one peer on behalf of another.

use std::{
    convert::Infallible,
    future, io,
    net::IpAddr,
    pin::{self, pin},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    http::{Extensions, Method, Request, Version, response},
    response::Response,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::{Semaphore, mpsc},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service as _;

use super::stream::{Handover, Line};

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

/// How long the kernel lets a peer acknowledge nothing, or take nothing, of what was written to it: a machine that is gone, or
/// a client that has stopped to read, holds no buffer for longer.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(25);

/// After so much silence the kernel asks a peer whether it is there, and then every five seconds until the
/// timeout above has passed.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(25)).with_interval(Duration::from_secs(5));

/// What a handler may know of the socket that its request came by.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    peer: IpAddr,
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
}

/// Serves until it is told to stop, and then until the requests under way are answered. Sockets of connections are their
/// owners'.
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
                let socket = Socket { peer: address.ip().to_canonical() };
                let (router, stop) = (router.clone(), stop.clone());
                sockets.spawn(async move {
                    drive(stream, socket, router, stop).await;
                    // Whoever has become a connection is a stranger no more.
                    drop(permit);
                });
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

/// Serves the requests on a socket, until it is closed or somebody else's: a WebSocket's, or a stream's.
async fn drive(stream: TcpStream, socket: Socket, router: Router, stop: CancellationToken) {
    if let Err(error) = prepare(&stream) {
        tracing::debug!(%error, "socket without its options");
    }
    // Boxed, since a channel has room for many at once.
    let (desk, mut streams) = mpsc::channel(1);
    let service = service_fn(move |request| answer(request, socket, router.clone(), desk.clone()));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD_BYTES);
    let mut served = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut patience = pin!(async {
        stop.cancelled().await;
        sleep(LAST_REQUEST).await;
    });
    let mut is_last = false;
    let result = loop {
        select! {
            result = &mut served => break result,
            Some(opening) = streams.recv() => {
                // An answer before, to a client that pipelines and does not read, is lost with hyper's buffer.
                if let Some(parts) = served.into_parts() {
                    opening.give(parts.io.into_inner());
                }
                return;
            }
            () = stop.cancelled(), if !is_last => {
                is_last = true;
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

/// A response that is a stream, and whose socket is wanted for it.
struct Opening {
    handover: Handover,
    head: response::Parts,
    version: Version,
}

impl Opening {
    fn give(self, stream: TcpStream) {
        let Self { handover, head, version } = self;
        handover.give(Line::new(stream, version, head.status, head.headers));
    }
}

/// The router's answer. One that is a stream is not given to hyper, which would keep buffers as long as it lasts.
async fn answer(
    mut request: Request<Incoming>,
    socket: Socket,
    mut router: Router,
    desk: mpsc::Sender<Box<Opening>>,
) -> Result<Response, Infallible> {
    let (version, has_body) = (request.version(), request.method() != Method::HEAD);
    request.extensions_mut().insert(socket);
    let mut response = router.call(request).await?;
    match response.extensions_mut().remove::<Handover>() {
        Some(handover) if has_body => {
            let (head, _) = response.into_parts();
            // There is room for the one answer that a socket waits for.
            let _ = desk.send(Box::new(Opening { handover, head, version })).await;
            future::pending().await
        }
        _ => Ok(response),
    }
}

/// Whether the peer is to blame, who is gone already.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
