//! Free ports, for servers that must be found again at the same port after a restart.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

/// Returns the first of `count` neighbouring free ports. They are below the range of outgoing
/// connections, which therefore cannot take a port before its pod does.
pub(crate) fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 100).unwrap() * 100;
    for _ in 0..1_000 {
        let port = first + NEXT.fetch_add(count, Ordering::Relaxed) % 2_000;
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (port..port + count).all(is_free) {
            return port;
        }
    }
    panic!("no free ports from {first} on");
}
