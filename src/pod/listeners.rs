//! [`Listeners`]: the addresses of a pod.

use std::{io, net::SocketAddr};

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
        Ok(Self { address, clients, admin: admin.transpose()? })
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Without it, the port of a pod that has just ended would count as taken for a minute.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
