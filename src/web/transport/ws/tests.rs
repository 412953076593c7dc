//! Tests of the size of one connection.

use std::mem;

use super::driver::{Connection, Label};
use crate::web::operations;

#[test]
fn connection_is_small() {
    // A task holds little more than this. 10,000 idle ones must fit into 40 MB, with all that the
    // kernel's sockets need here.
    assert!(mem::size_of::<Connection>() <= 672, "{}", mem::size_of::<Connection>());
    assert!(operations::size::<Label>() <= 80, "{}", operations::size::<Label>());
}
