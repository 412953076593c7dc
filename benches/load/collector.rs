//! Receivers of what a relay shows while it is measured: a sink for OTLP over HTTP, a scraper of
//! its metrics, and a reader of its console.
//!
//! They are small because they share the load's cores: bodies are read and dropped, and the answer
//! is always 200. They must never check what the relay sends.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, ensure};

/// Time between two scrapes.
const INTERVAL: Duration = Duration::from_secs(1);

/// Sink that answers every POST. Its threads end with the process.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    posts: Arc<AtomicU64>,
}

impl Sink {
    pub(crate) fn open() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, posts) = (listener.local_addr()?, Arc::<AtomicU64>::default());
        let counted = posts.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counted = counted.clone();
                // an error means that the relay closed the connection
                thread::spawn(move || swallow(stream, &counted));
            }
        });
        Ok(Self { address, posts })
    }

    /// Returns the number of POSTs since the last call.
    pub(crate) fn posts(&self) -> u64 {
        self.posts.swap(0, Ordering::Relaxed)
    }
}

fn swallow(mut stream: TcpStream, posts: &AtomicU64) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().map_err(io::Error::other)?;
                }
                None if line.trim_end().is_empty() => break,
                _ => {}
            }
        }
        io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
        posts.fetch_add(1, Ordering::Relaxed);
    }
}

/// Scraper that reads `/metrics` once a second until it is stopped.
pub(crate) struct Scraper {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<u32>>,
}

impl Scraper {
    pub(crate) fn start(relay: SocketAddr) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut scrapes = 0;
            while !stopped.load(Ordering::Relaxed) {
                scrape(relay)?;
                scrapes += 1;
                thread::park_timeout(INTERVAL);
            }
            Ok(scrapes)
        });
        Self { stop, thread }
    }

    /// Stops the scraper and returns the number of scrapes, or an error if one failed.
    pub(crate) fn stop(self) -> anyhow::Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        let scraped = self.thread.join().ok().context("the scraper panicked")?;
        scraped.context("the relay's /metrics cannot be read")
    }
}

fn scrape(relay: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(relay)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {relay}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if text.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(io::Error::other(text)) }
}

/// Reader of the console's stream, as an open page reads it.
pub(crate) struct Console {
    stream: TcpStream,
    thread: JoinHandle<(u32, u64)>,
}

impl Console {
    /// Opens the stream at the admin address with the debug token, and reads it on a thread.
    pub(crate) fn open(admin: SocketAddr, token: &str) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(admin)?;
        write!(
            stream,
            "GET /console/events HTTP/1.1\r\nHost: {admin}\r\nAuthorization: Bearer {token}\r\n\r\n"
        )?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut status = String::new();
        reader.read_line(&mut status)?;
        ensure!(status.starts_with("HTTP/1.1 200"), "the console's stream is refused: {status}");
        let thread = thread::spawn(move || {
            let messages =
                reader.split(b'\n').map_while(Result::ok).filter(|line| line.starts_with(b"data: "));
            messages.fold((0, 0), |(count, bytes), line| (count + 1, bytes + line.len() as u64))
        });
        Ok(Self { stream, thread })
    }

    /// Closes the stream. Returns the number of messages and their bytes.
    pub(crate) fn close(self) -> anyhow::Result<(u32, u64)> {
        self.stream.shutdown(Shutdown::Both)?;
        self.thread.join().ok().context("the reader panicked")
    }
}
