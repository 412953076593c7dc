//! [`Proxy`]: a TCP proxy between pods and the broker that breaks their connections on demand.
//!
//! It cuts, refuses, delays and swallows, as networks do. It forwards bytes in order and unchanged,
//! and must never add a byte.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    select,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
    try_join,
};

use crate::support::free_ports;

/// Largest size of one read, in bytes.
const CHUNK: usize = 16 << 10;

/// Largest number of chunks in transit on a delayed connection; beyond it the proxy stops reading.
const UNDER_WAY: usize = 1_024;

/// Fault of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No fault.
    None,
    /// The broker's answers arrive this much later.
    Delay(Duration),
    /// The port is closed and all connections are reset.
    Refuse,
    /// Connections are accepted and stay open, but no byte passes in either direction until the
    /// fault is over. A machine that lost its network looks like this.
    BlackHole,
}

/// Proxy in front of the broker, on a port of its own.
pub(crate) struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    /// Task that accepts connections. It ends with the proxy, and so do all connections.
    _accepting: JoinSet<()>,
}

#[derive(Clone)]
struct State {
    broker: String,
    fault: Fault,
    /// Number of times that all connections were reset.
    cuts: u32,
}

impl Proxy {
    /// Starts a proxy without a fault, in front of the broker at `HOST:PORT`.
    pub(crate) async fn start(broker: &str) -> Self {
        let port = free_ports(1);
        let (state, follow) =
            watch::channel(State { broker: broker.to_owned(), fault: Fault::None, cuts: 0 });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listen(port).await, port, follow));
        Self { port, state, _accepting: accepting }
    }

    /// Returns its address as a value for `PUBSUB_EMULATOR_HOST`.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sets the fault from now on.
    pub(crate) fn set(&self, fault: Fault) {
        self.state.send_modify(|state| {
            state.fault = fault;
            state.cuts += u32::from(fault == Fault::Refuse);
        });
    }

    /// Resets all connections. New connections are accepted.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Sends new connections to another broker.
    pub(crate) fn lead_to(&self, broker: &str) {
        self.state.send_modify(|state| state.broker = broker.to_owned());
    }
}

async fn listen(port: u16) -> TcpListener {
    TcpListener::bind(("127.0.0.1", port)).await.unwrap()
}

async fn accept(listener: TcpListener, port: u16, mut state: watch::Receiver<State>) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let refuses = state.borrow_and_update().fault == Fault::Refuse;
        match &listener {
            Some(_) if refuses => listener = None,
            None if !refuses => listener = Some(listen(port).await),
            _ => {}
        }
        select! {
            Some(Ok((socket, _))) = async { Some(listener.as_ref()?.accept().await) } => {
                connections.spawn(connection(socket, state.clone()));
            }
            Some(_) = connections.join_next() => {}
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Serves one connection until one side ends it or it is cut.
async fn connection(mut pod: TcpStream, mut state: watch::Receiver<State>) {
    let cuts = state.borrow().cuts;
    let mut follow = state.clone();
    let carried = async {
        passable(&mut follow).await;
        let address = follow.borrow().broker.clone();
        let mut broker = TcpStream::connect(address).await?;
        for socket in [&pod, &broker] {
            socket.set_nodelay(true)?;
        }
        let (from_pod, to_pod) = pod.split();
        let (from_broker, to_broker) = broker.split();
        let answers = carry(from_broker, to_pod, follow.clone(), true);
        try_join!(carry(from_pod, to_broker, follow.clone(), false), answers)
    };
    let is_whole = select! {
        carried = carried => carried.is_ok(),
        _ = state.wait_for(|state| state.cuts != cuts) => false,
    };
    if !is_whole {
        // An error means that it is reset already
        pod.set_zero_linger().ok();
    }
}

/// Carries bytes in one direction. Bytes that were read before a fault wait too: a connection that
/// recovers loses nothing.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    state: watch::Receiver<State>,
    is_answer: bool,
) -> io::Result<()> {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let mut reading = state.clone();
    let read = async move {
        loop {
            passable(&mut reading).await;
            let mut chunk = vec![0; CHUNK];
            let length = from.read(&mut chunk).await?;
            chunk.truncate(length);
            let delay = match reading.borrow().fault {
                Fault::Delay(delay) if is_answer => delay,
                _ => Duration::ZERO,
            };
            if length == 0 || sender.send((Instant::now() + delay, chunk)).await.is_err() {
                return Ok(());
            }
        }
    };
    let mut writing = state;
    let write = async move {
        while let Some((due, chunk)) = under_way.recv().await {
            sleep_until(due).await;
            passable(&mut writing).await;
            to.write_all(&chunk).await?;
        }
        to.shutdown().await
    };
    try_join!(read, write).map(drop)
}

async fn passable(state: &mut watch::Receiver<State>) {
    if state.wait_for(|state| state.fault != Fault::BlackHole).await.is_err() {
        // The proxy is gone, and this task is about to be aborted
        sleep(Duration::MAX).await;
    }
}
