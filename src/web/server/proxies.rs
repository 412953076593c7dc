//! [`TrustedProxies`]: the load balancers that may name the address of a client.
//!
//! Their header counts only on a socket that comes from one of them, since any client can send it.
//! Of its entries the rightmost counts that is no such proxy: what stands left of it may be
//! invented.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

/// Header to which each proxy appends the address of its own peer.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Bits of an IPv6 address that name one client: it may choose the other bits as it likes.
const CLIENT_BITS: u32 = 64;

/// Blocks of addresses from which `X-Forwarded-For` counts; by default none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Reads a list of blocks and addresses, such as `35.191.0.0/16, 203.0.113.7`; `None` if it is
    /// none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let entries = text.split(',').map(str::trim);
        let block = |entry: &str| entry.parse().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from)).ok();
        entries.map(block).collect::<Option<_>>().map(Self)
    }

    /// Reports whether an address is that of a trusted proxy.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.0.iter().any(|block| block.contains(&address))
    }

    /// Returns the address of the client that sends a request with these headers over a socket from
    /// `peer`.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let lines = headers.get_all(FORWARDED_FOR).iter().collect::<Vec<_>>();
        let entries = lines.into_iter().rev().flat_map(|line| line.to_str().unwrap_or("?").rsplit(','));
        let mut client = peer;
        for entry in entries {
            // Behind an entry that cannot be read nothing can be believed.
            match read(entry.trim()) {
                Some(address) if self.has(client) => client = address,
                _ => break,
            }
        }
        client
    }
}

/// Reads an entry: an address, perhaps with a port.
fn read(entry: &str) -> Option<IpAddr> {
    let with_port = || entry.parse::<SocketAddr>().map(|address| address.ip());
    let bare = entry.trim_matches(['[', ']']).parse::<IpAddr>().or_else(|_| with_port());
    bare.ok().map(|address| address.to_canonical())
}

/// Returns the address by which one client is known: of IPv6 its /64.
pub(super) fn client_block(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> CLIENT_BITS << CLIENT_BITS).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "35.191.1.2";

    fn client(header: &[&'static str]) -> String {
        let proxies = TrustedProxies::parse("35.191.0.0/16, 2001:db8::/32,198.51.100.1").unwrap();
        let mut headers = HeaderMap::new();
        for line in header {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        proxies.client(PEER.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn rightmost_foreign_entry_is_the_client() {
        assert_eq!(client(&["203.0.113.7"]), "203.0.113.7");
        assert_eq!(client(&["9.9.9.9, 203.0.113.7, 198.51.100.1"]), "203.0.113.7");
        assert_eq!(client(&["9.9.9.9", "203.0.113.7, 35.191.3.4"]), "203.0.113.7");
        assert_eq!(client(&["203.0.113.7:4711"]), "203.0.113.7");
        assert_eq!(client(&["[2001:db9::7]:4711,[2001:db8::1]"]), "2001:db9::7");
        assert_eq!(client(&["::ffff:203.0.113.7"]), "203.0.113.7");
    }

    #[test]
    fn unreadable_entry_ends_the_list() {
        assert_eq!(client(&[]), PEER);
        assert_eq!(client(&["203.0.113.7, unknown"]), PEER);
        assert_eq!(client(&["203.0.113.7, , 198.51.100.1"]), "198.51.100.1");
    }

    #[test]
    fn foreign_peers_are_not_believed() {
        let mut headers = HeaderMap::new();
        headers.append(FORWARDED_FOR, "203.0.113.7".parse().unwrap());
        let peer = "192.0.2.1".parse().unwrap();
        for proxies in [TrustedProxies::default(), TrustedProxies::parse("10.0.0.0/8").unwrap()] {
            assert_eq!(proxies.client(peer, &headers), peer);
        }
    }

    #[test]
    fn wrong_blocks_are_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0", "balancer", "10.0.0.1,,10.0.0.2"] {
            assert_eq!(TrustedProxies::parse(text), None, "{text}");
        }
    }

    #[test]
    fn ipv6_client_is_its_block() {
        let block = |address: &str| client_block(address.parse().unwrap()).to_string();
        assert_eq!(block("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(block("203.0.113.7"), "203.0.113.7");
        assert_eq!(block("::ffff:203.0.113.7"), "203.0.113.7");
    }
}
