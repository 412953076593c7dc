//! Check of the public URL: opens a WebSocket as clients do, and holds it open.
//!
//! A load balancer may cut a WebSocket like a slow request, and nothing inside the cluster notices
//! it. It must never print the token.

use std::{error::Error, iter::successors, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use humantime::format_duration as span;
use reqwest::{Client, RequestBuilder, Response, StatusCode, Upgraded, Url, header, redirect};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role},
    },
};

use super::{
    checks::Visit,
    report::{Finding, brief},
};
use crate::cli::websocket::{self, SUBPROTOCOL};

/// Longest time from the first packet to the answer of a pod. At the limit the check is wrong.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time that closing the WebSocket may take. At the limit it is dropped.
const CLOSE_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

type Socket = WebSocketStream<Upgraded>;

/// Opens a WebSocket and holds it open. Returns the finding.
pub(super) async fn visit(visit: &Visit) -> Finding {
    match try_visit(visit).await {
        Ok(finding) | Err(finding) => finding,
    }
}

/// Opens a WebSocket and holds it open. A finding in `Err` means that it did not open.
async fn try_visit(visit: &Visit) -> Result<Finding, Finding> {
    let token = match &visit.token_file {
        Some(path) => Some(tokio::fs::read_to_string(path).await.map_err(|error| {
            Finding::wrong(format!("{} cannot be read: {error}", path.display()), "correct --token-file")
        })?),
        None => None,
    };
    let request = request(visit)?;
    let answer = match timeout(HANDSHAKE_TIMEOUT, request.send()).await {
        Ok(answer) => answer.map_err(|error| unreachable(&visit.url, error))?,
        Err(_) => {
            let what = format!("{} does not answer within {}", visit.url, span(HANDSHAKE_TIMEOUT));
            return Err(Finding::wrong(
                what,
                "see kubectl describe gateway relay: it must be programmed, and its pods healthy",
            ));
        }
    };
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refused(visit, &answer));
    }
    let subprotocol = answer.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
    if subprotocol.is_none_or(|name| name != SUBPROTOCOL) {
        let what = format!("{} does not accept {SUBPROTOCOL}", visit.url);
        return Err(Finding::wrong(
            what,
            "--url must lead to the pods' /graphql; the load balancer must forward Sec-WebSocket-Protocol",
        ));
    }
    let upgraded = answer.upgrade().await.map_err(|error| unreachable(&visit.url, error))?;
    let socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
    Ok(hold(socket, token.as_deref().map(str::trim), visit.hold).await)
}

/// Builds the request of the handshake, by HTTP/1.1.
fn request(visit: &Visit) -> Result<RequestBuilder, Finding> {
    let url = visit.url.replacen("ws", "http", 1);
    let refuse = |error: &(dyn Error + 'static)| {
        Finding::wrong(format!("{}: {}", visit.url, brief(error)), "correct --url")
    };
    let url = Url::parse(&url).map_err(|error| refuse(&error))?;
    let mut client = Client::builder().http1_only().redirect(redirect::Policy::none());
    // The client honours `HTTPS_PROXY`, but no proxy reaches a pod on this machine.
    if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
        client = client.no_proxy();
    }
    let client = client.build().map_err(|error| refuse(&error))?;
    let request = websocket::request(&client, url);
    Ok(match &visit.origin {
        Some(origin) => request.header(header::ORIGIN, origin),
        None => request,
    })
}

/// Returns the finding for a URL that does not answer at all.
fn unreachable(url: &str, error: reqwest::Error) -> Finding {
    let error = error.without_url();
    let first: &(dyn Error + 'static) = &error;
    let is_about =
        |word| successors(Some(first), |&cause| cause.source()).any(|cause| cause.to_string().contains(word));
    let cure = if is_about("certificate") {
        "the certificate: gcloud certificate-manager certificates list shows whether it is ACTIVE (a new one \
         takes up to an hour); it must be for this name"
    } else if is_about("dns error") {
        "the name: enter what terraform output dns_records prints at the registrar"
    } else {
        "the address: check host and port; kubectl describe gateway relay shows whether it is programmed"
    };
    Finding::wrong(format!("{url} cannot be reached: {}", brief(&error)), cure)
}

/// Returns the finding for an answer that is no WebSocket.
fn refused(visit: &Visit, answer: &Response) -> Finding {
    let status = answer.status();
    let what = format!("{} answers with {status} instead of a WebSocket", visit.url);
    let location = answer.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
    let cure = match (status.as_u16(), location, &visit.origin) {
        (300..400, Some(location), _) => {
            format!("clients do not follow redirects: use wss://, and not {location}")
        }
        (403, _, Some(origin)) => {
            format!("the pods refuse pages of {origin}: name it in RELAY_ALLOWED_ORIGINS of the pods")
        }
        (404, _, _) => "the pods' path is /graphql: correct --url, or the paths of httproute.yaml".to_owned(),
        (502..=504, _, _) => {
            "no pod is ready behind the load balancer: see kubectl get pods, and their /readyz for the \
             reason; healthcheckpolicy.yaml must probe the port that the pods serve"
                .to_owned()
        }
        _ => "proxies before the pods must forward Upgrade and Connection, and must let the pods answer"
            .to_owned(),
    };
    Finding::wrong(what, cure)
}

/// Holds the connection for this time, or until it ends. Returns the finding.
async fn hold(mut socket: Socket, token: Option<&str>, hold: Duration) -> Finding {
    let began = Instant::now();
    let deadline = began + hold;
    let mut is_acknowledged = false;
    if let Some(token) = token {
        let authorization = match token.contains(' ') {
            true => token.to_owned(),
            false => format!("Bearer {token}"),
        };
        let init = json!({ "type": "connection_init", "payload": { "token": authorization } });
        // A failure to send shows below, as the end of the connection.
        socket.send(Message::text(init.to_string())).await.ok();
    }
    while let Ok(next) = timeout_at(deadline, socket.next()).await {
        match next {
            Some(Ok(Message::Text(text))) => match message_type(&text).as_deref() {
                Some("connection_ack") => is_acknowledged = true,
                Some("ping") => {
                    socket.send(Message::text(json!({ "type": "pong" }).to_string())).await.ok();
                }
                _ => {}
            },
            Some(Ok(Message::Close(frame))) => return closed(frame.as_ref(), token, began.elapsed()),
            // The library answers WebSocket pings itself.
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return cut(began.elapsed(), "without a close frame"),
        }
    }
    timeout(CLOSE_ANSWER_TIMEOUT, socket.close(None)).await.ok();
    let held = format!("a WebSocket stayed open for {}", span(hold));
    match token {
        Some(_) if !is_acknowledged => Finding::wrong(
            format!("{held}, but no pod sent connection_ack"),
            "another server answers instead of the pods: correct --url",
        ),
        _ => Finding::ok(held),
    }
}

/// Returns the type of a message; `None` if it is not a message of the subprotocol.
fn message_type(text: &str) -> Option<String> {
    let message: Value = serde_json::from_str(text).ok()?;
    Some(message.get("type")?.as_str()?.to_owned())
}

/// Returns the finding for a WebSocket that ended with a close frame.
fn closed(frame: Option<&CloseFrame>, token: Option<&str>, after: Duration) -> Finding {
    let code = frame.map(|frame| u16::from(frame.code));
    let reason = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
    match (code, token) {
        (Some(4408), None) => Finding::skipped(
            "the handshake works; without --token-file the pods end the connection too early to see the load \
             balancer's timeout",
        ),
        (Some(4401 | 4403), _) => Finding::wrong(
            format!("the pods refuse the token: {reason}"),
            "give --token-file a token that has not expired, from the issuer of RELAY_JWT_*",
        ),
        (Some(1012), _) => Finding::skipped("the pod that answered is draining: run the doctor again"),
        (Some(1013), _) => Finding::wrong(
            format!("the pod that answered is full: {reason}"),
            "more pods (maxReplicas), or a higher RELAY_MAX_CONNECTIONS",
        ),
        (Some(code), _) => cut(after, &format!("with {code} {reason}")),
        (None, _) => cut(after, "without a reason"),
    }
}

/// Returns the finding for a WebSocket that ended before its time.
fn cut(after: Duration, how: &str) -> Finding {
    // Tenths of a second are precise enough for a reader.
    let after = Duration::from_millis(u64::try_from(after.as_millis() / 100 * 100).unwrap_or(u64::MAX));
    Finding::wrong(
        format!("a WebSocket was cut after {}, {how}", span(after)),
        "GCPBackendPolicy spec.default.timeoutSec: 86400 (k8s/overlays/gke/gcpbackendpolicy.yaml); kubectl \
         describe gcpbackendpolicy relay shows whether it is attached. Other load balancers: their WebSocket \
         timeout",
    )
}
