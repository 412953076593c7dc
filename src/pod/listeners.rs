//! [`Listeners`]: the addresses of a pod.
//!
//! `[::]` means all addresses of both families, whatever the system's default is. It must never
//! keep a pod from a machine without IPv6.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr},
};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket};

use super::{error::StartError, settings::Settings};

/// Most sockets that may wait to be accepted. When another pod ends, its clients arrive all at
/// once. A client that finds no room retries only after a second. The kernel's limit is lower if
/// `net.core.somaxconn` is.
const BACKLOG: u32 = 4_096;

/// Listeners of a pod, with the address that clients use.
pub(super) struct Listeners {
    pub(super) address: SocketAddr,
    pub(super) clients: TcpListener,
    pub(super) admin: Option<TcpListener>,
    pub(super) admin_address: Option<SocketAddr>,
}

impl Listeners {
    /// Binds the addresses of the settings. Runs inside a runtime.
    ///
    /// # Errors
    /// [`StartError::Listen`] and [`StartError::AdminListen`].
    pub(super) fn bind(settings: &Settings) -> Result<Self, StartError> {
        let address = settings.listen;
        let clients = listen(address).map_err(|source| StartError::Listen { address, source })?;
        let admin = settings
            .admin_listen
            .map(|address| listen(address).map_err(|source| StartError::AdminListen { address, source }));
        let address = clients.local_addr().map_err(|source| StartError::Listen { address, source })?;
        let admin = admin.transpose()?;
        let admin_address = admin.as_ref().and_then(|admin| admin.local_addr().ok());
        Ok(Self { address, clients, admin, admin_address })
    }
}

/// Listens on the address. On a machine without IPv6, `[::]` becomes `0.0.0.0`.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    listen_exactly(address).or_else(|error| match without_ipv6(address, error.kind()) {
        Some(address) => {
            tracing::info!(%address, %error, "no IPv6 on this machine: listening on IPv4 only");
            listen_exactly(address)
        }
        None => Err(error),
    })
}

/// Returns the address to listen on instead, if the machine lacks IPv6: the error of all its IPv6
/// addresses is not that of one port.
fn without_ipv6(address: SocketAddr, error: ErrorKind) -> Option<SocketAddr> {
    let is_of_port = matches!(error, ErrorKind::AddrInUse | ErrorKind::PermissionDenied);
    let is_all = address.is_ipv6() && address.ip().is_unspecified();
    (is_all && !is_of_port).then(|| (Ipv4Addr::UNSPECIFIED, address.port()).into())
}

fn listen_exactly(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if address.is_ipv6() {
        SockRef::from(&socket).set_only_v6(false)?;
    }
    // Without it, the port of a pod that has just ended would count as taken for a minute.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_all_addresses_fall_back_to_ipv4() {
        let of = |address: &str, error| {
            without_ipv6(address.parse().unwrap(), error).map(|address| address.to_string())
        };
        // What Linux answers without IPv6 has no kind of its own.
        let unsupported = io::Error::from_raw_os_error(97).kind();
        assert_eq!(of("[::]:8080", unsupported).as_deref(), Some("0.0.0.0:8080"));
        assert_eq!(of("[::]:8080", ErrorKind::AddrNotAvailable).as_deref(), Some("0.0.0.0:8080"));
        assert_eq!(of("[::]:8080", ErrorKind::AddrInUse), None);
        assert_eq!(of("[::1]:8080", unsupported), None);
        assert_eq!(of("10.0.0.1:8080", unsupported), None);
    }
}
