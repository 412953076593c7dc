//! What one connection costs.

use std::mem;

use super::driver::{Connection, Label};
use crate::web::operations;

#[test]
fn a_connection_is_small() {
    // its task holds little more than this: 10,000 idle ones are to fit into 40 MB with all that the kernel's sockets need here
    assert!(mem::size_of::<Connection>() <= 672, "{}", mem::size_of::<Connection>());
    assert!(operations::size::<Label>() <= 80, "{}", operations::size::<Label>());
}
