//! [`charged`]: a body that holds the charge of its bytes until the socket has taken them.
//!
//! hyper drops the bytes of a body only when the kernel has them, so the charge goes with the
//! bytes. It must never be released earlier: a client that does not read is what it bounds.

use axum::body::Body;
use bytes::Bytes;

use crate::budget::Charge;

struct Charged {
    bytes: Vec<u8>,
    _charge: Option<Charge>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns a body of these bytes. Their charge is released when they are written, or thrown away.
pub(in crate::web) fn charged(bytes: Vec<u8>, charge: Option<Charge>) -> Body {
    Bytes::from_owner(Charged { bytes, _charge: charge }).into()
}
