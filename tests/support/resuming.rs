//! [`Crowd`]: clients that record what they receive and resume on any pod after any end of a
//! connection.
//!
//! They are as simple as a user's client can be: one query and the cursor of the last result. They
//! must never judge what they receive; the oracle does.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use rand::seq::IndexedRandom as _;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::{
    net::TcpStream,
    select,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _, http::HeaderValue},
};

use crate::support::{PATIENCE, eventually};

/// Query with just the fields that the oracle needs.
pub(crate) const NARROW: &str =
    "subscription Watch($after: String) { templateAdded(after: $after) { name } }";

/// Query with all fields, including the long list of locations.
pub(crate) const WIDE: &str =
    "subscription Watch($after: String) { templateAdded(after: $after) { name shareLocationIds } }";

/// Largest random delay before a client reconnects; longer if no pod answered.
const JITTER: Duration = Duration::from_millis(50);

/// Close codes after which clients reconnect: going away, no close frame, drain, slow or full,
/// expired, no init in time.
const RETRIED: [u16; 6] = [1001, 1006, 1012, 1013, 4403, 4408];

/// How the balancer chooses the pod of a client's next connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Balance {
    /// Any pod, each with the same chance.
    #[default]
    Even,
    /// One of the pods with the fewest clients.
    Fewest,
    /// The pod of the client's last connection, as with session affinity.
    Affinity,
}

/// Pod in the balancer's list.
#[derive(Clone, Copy, Debug)]
struct Backend {
    port: u16,
    /// Number of clients that are connected, or about to be.
    clients: usize,
}

/// Ports of the pods that a balancer would use. Clones share one list.
#[derive(Clone, Default)]
pub(crate) struct Ports {
    list: Arc<Mutex<Vec<Backend>>>,
    balance: Balance,
    /// Token of a demo user for these pods, if they want one.
    token: Option<fn(&str) -> String>,
}

impl Ports {
    /// Creates the list of pods that want tokens instead of the names of demo users.
    pub(crate) fn with_tokens(token: fn(&str) -> String) -> Self {
        Self { token: Some(token), ..Self::default() }
    }

    /// Returns what this user presents.
    pub(crate) fn token(&self, user: &str) -> String {
        self.token.map_or_else(|| user.to_owned(), |token| token(user))
    }

    /// Returns the same list for clients that are balanced in this way.
    pub(crate) fn balanced(&self, balance: Balance) -> Self {
        Self { balance, ..self.clone() }
    }

    pub(crate) fn add(&self, port: u16) {
        self.list().push(Backend { port, clients: 0 });
    }

    pub(crate) fn remove(&self, port: u16) {
        self.list().retain(|backend| backend.port != port);
    }

    pub(crate) fn any(&self) -> Option<u16> {
        self.list().choose(&mut rand::rng()).map(|backend| backend.port)
    }

    /// Returns the number of clients of each pod.
    pub(crate) fn clients(&self) -> Vec<usize> {
        self.list().iter().map(|backend| backend.clients).collect()
    }

    /// Chooses the pod of a client's next connection. It counts until the guard is dropped.
    fn choose(&self, last: Option<u16>) -> Option<Choice> {
        let mut list = self.list();
        let same = list.iter().position(|backend| Some(backend.port) == last);
        let fewest = list.iter().map(|backend| backend.clients).min()?;
        let fit = |at: &usize| self.balance != Balance::Fewest || list[*at].clients == fewest;
        let fits: Vec<usize> = (0..list.len()).filter(fit).collect();
        let same = same.filter(|_| self.balance == Balance::Affinity);
        let at = same.or_else(|| fits.choose(&mut rand::rng()).copied())?;
        list[at].clients += 1;
        Some(Choice { ports: self.clone(), port: list[at].port })
    }

    fn list(&self) -> MutexGuard<'_, Vec<Backend>> {
        self.list.lock().unwrap()
    }
}

/// Choice of a pod for one connection.
struct Choice {
    ports: Ports,
    port: u16,
}

impl Drop for Choice {
    fn drop(&mut self) {
        let mut list = self.ports.list();
        if let Some(backend) = list.iter_mut().find(|backend| backend.port == self.port) {
            // A pod on the port of an earlier one counts its own clients only.
            backend.clients = backend.clients.saturating_sub(1);
        }
    }
}

/// Behaviour of the clients of a crowd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// They read and reconnect.
    Reading,
    /// They stay connected but do not read.
    Stuck,
    /// They disconnect and stay away.
    Away,
}

/// One received event.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Number of the client's connection, from 1.
    pub(crate) connection: u32,
    /// Number in the template's name.
    pub(crate) number: usize,
    pub(crate) event: String,
    pub(crate) at: Instant,
}

/// End of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) at: Instant,
    pub(crate) port: u16,
    pub(crate) code: u16,
}

/// Record of one client.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) user: &'static str,
    pub(crate) received: Vec<Received>,
    pub(crate) gaps: usize,
    pub(crate) ends: Vec<Ended>,
    /// Messages that no client should receive.
    pub(crate) wrong: Vec<String>,
    connections: u32,
    cursor: Option<String>,
}

/// Clients of the tutorial's users.
pub(crate) struct Crowd {
    records: Vec<Arc<Mutex<Record>>>,
    behaviour: watch::Sender<Behaviour>,
    tasks: JoinSet<()>,
}

impl Crowd {
    /// Connects `count` clients of these users, in turn, and returns once each has a cursor. From
    /// then on a client must receive every matching event.
    pub(crate) async fn gather(
        ports: &Ports,
        users: &[&'static str],
        count: usize,
        query: &'static str,
    ) -> Self {
        let (behaviour, follow) = watch::channel(Behaviour::Reading);
        let mut crowd = Self { records: Vec::new(), behaviour, tasks: JoinSet::new() };
        for user in users.iter().cycle().take(count) {
            let record = Arc::new(Mutex::new(Record { user, ..Record::default() }));
            let client =
                Client { ports: ports.clone(), record: record.clone(), behaviour: follow.clone(), query };
            crowd.tasks.spawn(client.run());
            crowd.records.push(record);
        }
        eventually("every client has a cursor", PATIENCE, async || {
            crowd.records().all(|record| record.cursor.is_some()).then_some(())
        })
        .await;
        crowd
    }

    pub(crate) fn set(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = MutexGuard<'_, Record>> {
        self.records.iter().map(|record| record.lock().unwrap())
    }

    /// Returns the ends of all connections to this port.
    pub(crate) fn ends_at(&self, port: u16) -> Vec<Ended> {
        let mut ends: Vec<Ended> = self.records().flat_map(|record| record.ends.clone()).collect();
        ends.retain(|end| end.port == port);
        ends
    }
}

struct Client {
    ports: Ports,
    record: Arc<Mutex<Record>>,
    behaviour: watch::Receiver<Behaviour>,
    query: &'static str,
}

type Socket = WebSocketStream<TcpStream>;

/// Message of the pod.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Ack {
    cursor: String,
}

#[derive(Deserialize)]
struct Next<'a> {
    #[serde(borrow)]
    data: Option<Data<'a>>,
    #[serde(borrow)]
    extensions: Extensions<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    #[serde(borrow)]
    template_added: Option<Template<'a>>,
}

#[derive(Deserialize)]
struct Template<'a> {
    name: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Extensions<'a> {
    cursor: String,
    #[serde(borrow)]
    event_id: Option<&'a str>,
    #[serde(borrow)]
    gap: Option<&'a RawValue>,
}

impl Client {
    async fn run(mut self) {
        let mut last = None;
        loop {
            if self.behaviour.wait_for(|behaviour| *behaviour != Behaviour::Away).await.is_err() {
                return;
            }
            sleep(JITTER.mul_f64(rand::random())).await;
            let Some(choice) = self.ports.choose(last) else { continue };
            let port = choice.port;
            last = Some(port);
            let Ok(Some(mut socket)) = timeout(PATIENCE, self.connect(port)).await else {
                drop(choice);
                sleep(JITTER * 2).await;
                continue;
            };
            let code = self.listen(&mut socket).await;
            let mut record = self.record.lock().unwrap();
            record.ends.push(Ended { at: Instant::now(), port, code });
            if !RETRIED.contains(&code) {
                record.wrong.push(format!("an end that is not retried: {code}"));
                return;
            }
        }
    }

    /// Connects, waits for the ack and subscribes. Returns `None` if the pod refuses.
    async fn connect(&self, port: u16) -> Option<Socket> {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let mut request = format!("ws://127.0.0.1:{port}/graphql").into_client_request().ok()?;
        let protocol = HeaderValue::from_static("graphql-transport-ws");
        request.headers_mut().insert("sec-websocket-protocol", protocol);
        let (mut socket, _) = client_async(request, tcp).await.ok()?;
        let token = format!("Bearer {}", self.ports.token(self.record.lock().unwrap().user));
        send(&mut socket, &json!({ "type": "connection_init", "payload": { "token": token } })).await?;
        let Some(Ok(Message::Text(text))) = socket.next().await else { return None };
        let frame: Frame<'_> = serde_json::from_str(&text).ok()?;
        if frame.kind != "connection_ack" {
            self.wrong(&text);
            return None;
        }
        let ack: Ack = serde_json::from_str(frame.payload?.get()).ok()?;
        let after = self.record.lock().unwrap().cursor.get_or_insert(ack.cursor).clone();
        let payload = json!({ "query": self.query, "variables": { "after": after } });
        send(&mut socket, &json!({ "id": "w", "type": "subscribe", "payload": payload })).await?;
        self.record.lock().unwrap().connections += 1;
        Some(socket)
    }

    /// Receives messages until the connection ends. Returns the close code.
    async fn listen(&mut self, socket: &mut Socket) -> u16 {
        loop {
            let behaviour = *self.behaviour.borrow_and_update();
            select! {
                message = socket.next(), if behaviour == Behaviour::Reading => match message {
                    Some(Ok(Message::Text(text))) => {
                        if text.contains(r#""type":"ping""#) {
                            send(socket, &json!({ "type": "pong" })).await;
                        } else if self.record_message(&text).is_none() {
                            self.wrong(&text);
                        }
                    }
                    Some(Ok(Message::Close(frame))) => return frame.map_or(1006, |frame| frame.code.into()),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return 1006,
                },
                changed = self.behaviour.changed() => {
                    if changed.is_err() || *self.behaviour.borrow() == Behaviour::Away {
                        socket.close(None).await.ok();
                        return 1001;
                    }
                }
            }
        }
    }

    /// Records a message. Returns `None` if no client should receive such a message.
    fn record_message(&self, text: &str) -> Option<()> {
        let frame: Frame<'_> = serde_json::from_str(text).ok()?;
        if frame.kind == "pong" {
            return Some(());
        }
        let next: Next<'_> =
            serde_json::from_str((frame.kind == "next").then_some(frame.payload?)?.get()).ok()?;
        let mut record = self.record.lock().unwrap();
        match (next.data?.template_added, next.extensions.gap) {
            (None, Some(_)) => record.gaps += 1,
            (Some(template), None) => {
                let number = template.name.parse().ok()?;
                let event = next.extensions.event_id?.to_owned();
                let connection = record.connections;
                record.received.push(Received { connection, number, event, at: Instant::now() });
            }
            _ => return None,
        }
        record.cursor = Some(next.extensions.cursor);
        Some(())
    }

    fn wrong(&self, text: &str) {
        self.record.lock().unwrap().wrong.push(text.to_owned());
    }
}

async fn send(socket: &mut Socket, message: &serde_json::Value) -> Option<()> {
    socket.send(Message::text(message.to_string())).await.ok()
}
