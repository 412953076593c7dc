//! [`Haproxy`]: haproxy before some pods. Each request goes to the next pod.
//!
//! It stands for the load balancer of a deployment. It must never outlive its test.

use std::{
    io::Write as _,
    process::{Child, Command, Stdio},
};

use tokio::net::TcpStream;

use super::{
    PATIENCE,
    emulator::{environment, skip},
    eventually, free_ports,
};

/// Running haproxy. It is killed when dropped.
pub(crate) struct Haproxy {
    port: u16,
    child: Child,
}

impl Haproxy {
    /// Starts haproxy before the pods of these ports. Without haproxy it prints what is missing and
    /// returns `None`. In CI nothing may be missing.
    pub(crate) async fn start(test: &str, pods: impl IntoIterator<Item = u16>) -> Option<Self> {
        let port = free_ports(1);
        let programs = ["haproxy", "/usr/sbin/haproxy"].into_iter();
        let started = programs.map(|program| {
            let mut command = Command::new(program);
            command.args(["-db", "-f", "/dev/stdin"]).stdin(Stdio::piped()).spawn()
        });
        let Some(mut child) = started.flatten().next() else {
            assert_ne!(environment("CI").as_deref(), Some("true"), "haproxy is missing");
            skip(test, "haproxy is missing: install it");
            return None;
        };
        child.stdin.take().unwrap().write_all(settings(port, pods).as_bytes()).unwrap();
        eventually("haproxy listens", PATIENCE, async || TcpStream::connect(("127.0.0.1", port)).await.ok())
            .await;
        Some(Self { port, child })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // An error means that the process is gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn settings(port: u16, pods: impl IntoIterator<Item = u16>) -> String {
    let pods = pods.into_iter().map(|pod| format!("    server pod-{pod} 127.0.0.1:{pod}\n"));
    format!(
        "defaults
    mode http
    timeout connect 5s
    timeout client 75s
    timeout server 75s

frontend clients
    bind 127.0.0.1:{port}
    default_backend pods

backend pods
    balance roundrobin
{}",
        pods.collect::<String>()
    )
}
