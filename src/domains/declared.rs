//! Declared domain: a domain in one GraphQL file.
//!
//! A team writes its types and its rules in one file, as directives. This module checks the file
//! and runs its rules. No file of this folder may hold code of a team, or name a broker or a
//! transport.

mod claims;
pub mod expansion;
pub mod template;
