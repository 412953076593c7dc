//! To come.
pub mod directory;
pub mod location;
pub mod schema;
pub mod template;
pub mod user;
