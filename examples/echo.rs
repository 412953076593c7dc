//! Server that echoes every message: the WebSocket stack alone, for the Autobahn cases
//! (`ci/autobahn`).
//!
//! The cases need an echo, which the relay itself never gives. It must never be reachable from
//! another machine.

#![expect(clippy::print_stdout, reason = "it prints its address")]

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse as _, Response},
    routing::get,
};
use opentelemetry::global;
use pubsub_relay::{
    budget::Budget,
    telemetry::Refusals,
    web::{
        TrustedProxies,
        server::{Bounds, serve},
        transport::ws::{
            frame::{self, Message},
            handshake::Handshake,
            protocol::Close,
            socket::{ReadError, Socket},
        },
    },
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Size limit of a message in bytes: that of the largest case.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let tasks = TaskTracker::new();
    let router = Router::new().fallback(get(move |request| handshake(request, tasks)));
    let bounds = Bounds {
        requests: Budget::default().requests,
        refusals: Refusals::new(&global::meter("echo")),
        trusted: TrustedProxies::default(),
    };
    serve(listener, router, CancellationToken::new(), bounds).await;
    Ok(())
}

async fn handshake(request: Request, tasks: TaskTracker) -> Response {
    let handshake = match Handshake::read(&request, &[]) {
        Ok(handshake) => handshake,
        Err(error) => return (error.status(), error.headers(), error.to_string()).into_response(),
    };
    let response = handshake.response();
    tasks.spawn(async move {
        if let Ok(mut socket) = handshake.socket(MAX_MESSAGE_BYTES).await
            && let Some(close) = echo(&mut socket).await
        {
            // An error means that the peer did not wait for the close frame.
            let _ = socket.close(&close, false).await;
        }
    });
    response
}

/// Echoes messages until the connection ends. Returns the close to send, or `None` if the
/// connection is lost.
async fn echo(socket: &mut Socket) -> Option<Close> {
    loop {
        let written = match socket.message().await {
            Ok(Message::Text(text)) => socket.write(|frames| frame::text(frames, [&text])),
            Ok(Message::Binary(bytes)) => socket.write(|frames| frame::binary(frames, &bytes)),
            Ok(Message::Ping(payload)) => socket.write(|frames| frame::pong(frames, &payload)),
            Ok(Message::Pong) => continue,
            Ok(Message::Close(close)) => return Some(Close::new(close.code, "")),
            Err(ReadError::Frame(error)) => return Some(Close::new(error.code(), "")),
            Err(ReadError::Lost(_)) => return None,
        };
        written.ok()?;
        socket.flush().await.ok()?;
    }
}
