//! The tutorial's domain: users at locations and organisations, who share templates.
//!
//! It is a schema file with its directory, as any team may write them. The relay serves it unless
//! `RELAY_SCHEMA` names another one.

/// Schema file.
pub const SCHEMA: &str = include_str!("tutorial.graphql");

/// Directory: the tutorial's users and locations.
pub const DIRECTORY: &str = include_str!("tutorial/directory.json");

/// Document of `relay watch`: it takes a cursor, so that it can resume.
pub const WATCH: &str =
    "subscription Watch($after: String) { templateAdded(after: $after) { id name shareLocationIds } }";

/// Document of `relay publish`: it adds a template.
pub const ADD: &str = "mutation Add($name: String!, $locations: [ID!]) { addTemplate(templateInput: { name: $name, \
                       shareLocationIds: $locations }) { success template { id name shareLocationIds } } }";

/// Examples for the page at `/`: a demo user, and the document that this user runs.
pub const EXAMPLES: [(&str, &str); 2] =
    [("ZOLO", include_str!("tutorial/watch.graphql")), ("ZOWI", include_str!("tutorial/add.graphql"))];
