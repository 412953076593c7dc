//! `relay watch`: subscribes over graphql-transport-ws, prints each result as it comes, and resumes
//! with its cursor after a cut.
//!
//! It is a client like those of the recipes in `docs/RESUME.md`. It must never end because of what
//! passes by itself, once it was connected.

use std::{collections::VecDeque, io::Write, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{StatusCode, Upgraded};
use serde_json::{Map, Value, json};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role},
    },
};

use super::{failure::Failure, paint::Paint, publish::errors, target::Target};
use crate::{cli::websocket, rfc3339};

/// How long a connection may be silent before it counts as lost. A pod pings every 25 s.
const SILENCE: Duration = Duration::from_secs(40);

/// Pause before a new connection. It doubles from the first value to the second, less up to a half
/// by chance.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Ids of events that are remembered, to drop repeats after a resume.
const REMEMBERED: usize = 1_000;

/// Variable of a document that takes the cursor.
const AFTER: &str = "after";

/// Subscription to watch.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Pod and user.
    pub target: Target,
    /// GraphQL document. It resumes if it has the variable `$after`.
    pub document: String,
    /// Its variables.
    pub variables: Map<String, Value>,
    /// Number of results after which the command ends; `None`: it goes on.
    pub count: Option<u64>,
}

/// Why a connection ended.
enum End {
    /// All results that were asked for have come, or the pod completed the subscription.
    Done,
    /// The connection was lost; the next one may work.
    Lost(String),
    /// Nothing will help.
    Failed(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Outputs of a command.
struct Screen<'a> {
    out: &'a mut (dyn Write + Send),
    words: &'a mut (dyn Write + Send),
    paint: [Paint; 2],
}

/// State of the subscription over all its connections.
struct Session<'a> {
    watch: &'a Watch,
    screen: Screen<'a>,
    cursor: Option<String>,
    seen: VecDeque<String>,
    results: u64,
    /// Whether a connection has been acknowledged.
    was_connected: bool,
    wait: Duration,
}

/// Watches until `count` results have come or the pod completes the subscription. Results go to
/// `out`, and what happens to the connection goes to `words`; `paint` are the colours of both.
///
/// # Errors
/// [`Failure`], if the first connection fails, or the pod refuses.
pub async fn watch(
    watch: &Watch,
    out: &mut (dyn Write + Send),
    words: &mut (dyn Write + Send),
    paint: [Paint; 2],
) -> Result<(), Failure> {
    let screen = Screen { out, words, paint };
    let mut session = Session {
        watch,
        screen,
        cursor: None,
        seen: VecDeque::new(),
        results: 0,
        was_connected: false,
        wait: BACKOFF.0,
    };
    loop {
        let end = match session.connect().await {
            Ok(socket) => session.follow(socket).await,
            Err(end) => end,
        };
        match end {
            End::Done => return Ok(()),
            End::Failed(
                failure @ (Failure::Unreachable { .. } | Failure::Busy { .. } | Failure::NoPod { .. }),
            ) if session.was_connected => {
                session.pause(&failure.to_string()).await?;
            }
            End::Failed(failure) => return Err(failure),
            End::Lost(why) => session.pause(&why).await?,
        }
    }
}

impl Session<'_> {
    /// Waits before the next connection.
    async fn pause(&mut self, why: &str) -> Result<(), Failure> {
        let wait = self.wait.mul_f64(rand::random_range(0.5..1.0));
        self.wait = (self.wait * 2).min(BACKOFF.1);
        let text = format!("connection lost: {why}; again in {:.1} s", wait.as_secs_f64());
        self.screen.say(&self.screen.paint[1].warning(text))?;
        sleep(wait).await;
        Ok(())
    }

    /// Opens a WebSocket.
    async fn connect(&self) -> Result<WebSocketStream<Upgraded>, End> {
        let target = &self.watch.target;
        let unreachable = |error: reqwest::Error| Failure::unreachable(target.name(), &error.without_url());
        let client = target.client().map_err(unreachable)?;
        let request = websocket::request(&client, target.url().clone());
        let Ok(answer) = timeout(SILENCE, request.send()).await else {
            return Err(End::Lost("no answer".to_owned()));
        };
        let answer = answer.map_err(unreachable)?;
        let (url, status) = (target.name().to_owned(), answer.status());
        match status {
            StatusCode::SWITCHING_PROTOCOLS => {}
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
                return Err(Failure::Busy { url, why: status.to_string() }.into());
            }
            _ => return Err(Failure::NoPod { url, status: status.as_u16() }.into()),
        }
        let upgraded = answer.upgrade().await.map_err(unreachable)?;
        Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await)
    }

    /// Subscribes on the WebSocket and prints results until it ends.
    async fn follow(&mut self, mut socket: WebSocketStream<Upgraded>) -> End {
        let authorization = match self.watch.target.authorization() {
            Ok(authorization) => authorization,
            Err(failure) => return End::Failed(failure),
        };
        let init = json!({ "type": "connection_init", "payload": { "Authorization": authorization } });
        // A failure to send shows below, as the end of the connection.
        socket.send(Message::text(init.to_string())).await.ok();
        loop {
            let Ok(next) = timeout(SILENCE, socket.next()).await else {
                return End::Lost(format!("nothing came for {} s", SILENCE.as_secs()));
            };
            let text = match next {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(frame))) => return closed(frame.as_ref()),
                // The library answers WebSocket pings itself.
                Some(Ok(_)) => continue,
                Some(Err(error)) => return End::Lost(error.to_string()),
                None => return End::Lost("it was cut".to_owned()),
            };
            let message: Value = serde_json::from_str(&text).unwrap_or_default();
            let reply = match self.receive(&message) {
                Ok(reply) => reply,
                Err(end) => {
                    timeout(Duration::from_secs(1), socket.close(None)).await.ok();
                    return end;
                }
            };
            if let Some(reply) = reply {
                socket.send(Message::text(reply.to_string())).await.ok();
            }
        }
    }

    /// Takes one message in. Returns what is to be sent for it.
    fn receive(&mut self, message: &Value) -> Result<Option<Value>, End> {
        let payload = &message["payload"];
        match message["type"].as_str().unwrap_or_default() {
            "connection_ack" => {
                let subscribe = self.subscribe();
                if self.cursor.is_none() {
                    self.cursor = payload["cursor"].as_str().map(str::to_owned);
                }
                self.acknowledged()?;
                Ok(Some(subscribe))
            }
            "ping" => Ok(Some(json!({ "type": "pong" }))),
            "next" => self.print(payload).map(|()| None),
            "error" => Err(Failure::Refused(errors(Some(payload))).into()),
            "complete" => Err(End::Done),
            _ => Ok(None),
        }
    }

    /// Returns the message that subscribes, from the cursor on if the document takes one.
    fn subscribe(&self) -> Value {
        let mut variables = self.watch.variables.clone();
        if let Some(cursor) = self.cursor.as_ref().filter(|_| self.resumes()) {
            variables.insert(AFTER.to_owned(), cursor.as_str().into());
        }
        let payload = json!({ "query": self.watch.document, "variables": variables });
        json!({ "type": "subscribe", "id": "1", "payload": payload })
    }

    /// Returns whether the document takes the cursor.
    fn resumes(&self) -> bool {
        self.watch.document.contains("$after")
    }

    fn acknowledged(&mut self) -> Result<(), Failure> {
        let target = &self.watch.target;
        let text = match (self.was_connected, self.resumes()) {
            (false, _) => format!("watching at {} as {}; Ctrl-C ends it", target.name(), target.user()),
            (true, true) => "connected again; what was missed follows".to_owned(),
            (true, false) => {
                "connected again; what was missed does not follow, since the document has no $after"
                    .to_owned()
            }
        };
        (self.was_connected, self.wait) = (true, BACKOFF.0);
        self.screen.say(&self.screen.paint[1].good(text))
    }

    /// Prints a result, unless it is a repeat.
    fn print(&mut self, result: &Value) -> Result<(), End> {
        let extensions = &result["extensions"];
        if let Some(cursor) = extensions["cursor"].as_str() {
            self.cursor = Some(cursor.to_owned());
        }
        if let Some(gap) = extensions.get("gap") {
            let reason = gap["reason"].as_str().unwrap_or("unknown");
            let text = format!("some events are missing ({reason}): query again");
            self.screen.say(&self.screen.paint[1].bad(text))?;
            return Ok(());
        }
        if let Some(event) = extensions["eventId"].as_str() {
            if self.seen.iter().any(|seen| seen == event) {
                return Ok(());
            }
            if self.seen.len() == REMEMBERED {
                self.seen.pop_front();
            }
            self.seen.push_back(event.to_owned());
        }
        let failed = errors(result.get("errors"));
        if !failed.is_empty() {
            self.screen.say(&self.screen.paint[1].bad(failed))?;
        }
        self.screen.print(&result["data"])?;
        self.results += 1;
        if self.watch.count.is_some_and(|count| self.results >= count) { Err(End::Done) } else { Ok(()) }
    }
}

impl Screen<'_> {
    /// Writes a result. A terminal shows its time as well.
    fn print(&mut self, data: &Value) -> Result<(), Failure> {
        let paint = self.paint[0];
        let time = rfc3339::write(std::time::SystemTime::now()).unwrap_or_default();
        let time = time.get(11..19).unwrap_or_default();
        let time = if paint.is_on { paint.dim(format!("{time} ")) } else { String::new() };
        let written = writeln!(self.out, "{time}{data}").and_then(|()| self.out.flush());
        written.map_err(|error| Failure::Output(error.to_string()))
    }

    fn say(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.words, "{text}").map_err(|error| Failure::Output(error.to_string()))
    }
}

/// Returns the end for a close frame.
fn closed(frame: Option<&CloseFrame>) -> End {
    let code = frame.map_or(1005, |frame| u16::from(frame.code));
    let reason = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
    match code {
        // A file may hold a fresh token by now, and keys may be there again.
        4403 if reason == "token expired" || reason.contains("at the moment") => End::Lost(reason),
        4401 | 4403 => End::Failed(Failure::Token(reason)),
        4400 | 4406 | 4409 | 4429 => End::Failed(Failure::Refused(format!("{reason} ({code})"))),
        _ => End::Lost(format!("closed with {code} {reason}").trim_end().to_owned()),
    }
}
