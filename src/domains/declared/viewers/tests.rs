//! Tests of viewers: claims, demo tokens, rows, bounds.

use serde_json::json;

use super::*;
use crate::{domain::Claims, domains::declared::directory::DirectoryError};

const TUTORIAL: &str = include_str!("../../tutorial.graphql");
const DIRECTORY: &str = include_str!("../../tutorial/directory.json");
const ORDERS: &str = include_str!("../../../../examples/orders/schema.graphql");

fn viewers(file: &str, directory: &str) -> Viewers {
    let rules = Rules::parse(file).unwrap();
    let directory = Directory::parse(directory, &rules).unwrap();
    Viewers::new(Arc::new(rules), directory)
}

fn orders(interest: &str) -> Viewers {
    let own = format!(
        "{interest} type A {{ id: ID! a: ID b: ID }} type Subscription {{
        a: A @event(type: \"x\") @audience(keys: [\"user:{{a}}\", \"role:{{a}}\", \"{{a}}:{{b}}\"]) }}"
    );
    viewers(&own, "{}")
}

fn shown(viewer: Result<Viewer, Refused>) -> Result<(String, Vec<String>), Refused> {
    let viewer = viewer?;
    let keys = viewer.interests.keys().iter().map(ToString::to_string).filter(|key| key != EVERYONE);
    Ok((viewer.user.to_string(), keys.collect()))
}

fn of_claims(viewers: &Viewers, claims: Value) -> Result<(String, Vec<String>), Refused> {
    let Value::Object(claims) = claims else { panic!("claims are an object") };
    shown(viewers.viewer(Identity::Claims(&Claims::new(claims))))
}

fn of_demo(viewers: &Viewers, token: &str) -> Result<(String, Vec<String>), Refused> {
    shown(viewers.viewer(Identity::Demo(token)))
}

fn is(user: &str, keys: &[&str]) -> Result<(String, Vec<String>), Refused> {
    Ok((user.to_owned(), keys.iter().map(ToString::to_string).collect()))
}

#[test]
fn claims_give_interests() {
    let viewers = viewers(ORDERS, "{}");
    let found = of_claims(&viewers, json!({"sub": "u/7", "roles": ["support", "", null, "a"], "x": 1}));
    assert_eq!(found, is("u/7", &["role:a", "role:support", "user:u%2F7"]));
    for claims in
        [json!({}), json!({"sub": 7}), json!({"sub": ""}), json!({"sub": null}), json!({"sub": "a\u{7}"})]
    {
        assert_eq!(of_claims(&viewers, claims), Err(Refused::Unknown));
    }
    assert_eq!(of_claims(&viewers, json!({"sub": "x".repeat(257)})), Err(Refused::Unknown));
}

#[test]
fn operator_finds_user_by_any_name() {
    let filtered =
        TUTORIAL.replace("templateAdded: Template", "templateAdded(name: String @filter): Template");
    let found = viewers(&filtered, DIRECTORY);
    for name in ["4", "ZOLO", "user-4@gmail.com", "USER-4@gmail.com"] {
        let Found::User(viewer) = found.find(name) else { panic!("{name}") };
        let keys: Vec<_> = viewer.interests.keys().iter().map(|key| &**key).collect();
        assert_eq!(&*viewer.user, "4", "{name}");
        assert!(keys.contains(&"location:3") && keys.contains(&"||location:3"), "{keys:?}");
    }
    assert_eq!(found.find("ZORRO"), Found::Unknown);
    assert_eq!(viewers(ORDERS, "{}").find("4"), Found::NoTable);
}

#[test]
fn demo_tokens_are_names_or_claims() {
    let viewers = viewers(ORDERS, "{}");
    assert_eq!(of_demo(&viewers, "ann"), is("ann", &["user:ann"]));
    assert_eq!(of_demo(&viewers, r#"{"sub":"7","roles":["support"]}"#), is("7", &["role:support", "user:7"]));
    assert_eq!(of_demo(&viewers, r#"{"roles":["support"]}"#), Err(Refused::Unknown));
    assert_eq!(of_demo(&viewers, "{sub}"), Err(Refused::Unknown));
}

#[test]
fn every_viewer_listens_to_everyone() {
    let has_key = |file: &str| {
        let viewer = viewers(file, "{}").viewer(Identity::Demo("ann")).unwrap();
        viewer.interests.keys().iter().any(|key| **key == *EVERYONE)
    };
    let news = " type News { id: ID! } extend type Subscription { news: News @event(type: \"n\") @audience(everyone: true) }";
    assert!(has_key(&(ORDERS.to_owned() + news)));
    assert!(!has_key(ORDERS), "no field needs it");
    // No claim gives the key.
    let forged = orders("extend schema @interest(key: \"{sub}:{sub}\") @interest(key: \"user:{sub}\")");
    assert!(!of_claims(&forged, json!({"sub": EVERYONE})).unwrap().1.iter().any(|key| key == EVERYONE));
}

#[test]
fn unverified_email_is_no_claim() {
    let viewers =
        orders("extend schema @interest(key: \"user:{email}\") @interest(key: \"role:{$viewer.id}\")");
    for (verified, keys) in [
        (json!(true), &["role:s", "user:e@x"][..]),
        (json!("true"), &["role:s", "user:e@x"]),
        (json!(false), &["role:s"]),
        (json!(null), &["role:s"]),
    ] {
        let claims = json!({"sub": "s", "id": "other", "email": "e@x", "email_verified": verified});
        assert_eq!(of_claims(&viewers, claims), is("s", keys));
    }
}

#[test]
fn rows_are_tutorials_viewers() {
    let viewers = viewers(TUTORIAL, DIRECTORY);
    for (token, sub, keys) in [
        ("ZELO", "1", &["location:1"][..]),
        ("ZEWI", "2", &["location:3", "location:4"]),
        ("ZOWI", "3", &["location:1", "location:2"]),
        ("ZOLO", "4", &["location:3"]),
    ] {
        assert_eq!(of_demo(&viewers, token), is(sub, keys), "{token}");
        assert_eq!(of_claims(&viewers, json!({"sub": sub})), is(sub, keys));
    }
    assert_eq!(of_demo(&viewers, "ZALO"), Err(Refused::Unknown));
    assert_eq!(of_claims(&viewers, json!({"sub": "99"})), Err(Refused::Unknown));
}

#[test]
fn rows_are_found_by_verified_email() {
    let viewers = viewers(
        TUTORIAL,
        r#"{"locations": [], "more": 1, "users": [
        {"id": 7, "type": "T", "email": "Ann@X.org", "locationId": "l", "unknown": {}}, {"id": "8"}]}"#,
    );
    let by = |verified: Value| {
        of_claims(&viewers, json!({"sub": "auth0|7", "email": "aNN@x.org", "email_verified": verified}))
    };
    assert_eq!(by(json!(true)), is("7", &["location:l"]));
    assert_eq!(by(json!(false)), Err(Refused::Unknown));
    assert_eq!(by(json!(null)), Err(Refused::Unknown));
    assert_eq!(of_claims(&viewers, json!({"sub": "8"})), is("8", &[]));
}

#[test]
fn conditions_must_all_hold() {
    let file = r#"
        extend schema @interest(key: "room:{id}", of: "Room", where: { org: "{orgs}", kind: "{$viewer.kind}" })
            @interest(key: "tag:{name}/{$viewer.sub}", of: "Room", where: { tags: "t-{orgs}" })
            @interest(key: "all:{id}", of: "Room")
        type Room @table(name: "rooms", key: "id") { id: ID! org: ID! kind: String name: String tags: [String] }
        type A { id: ID! b: ID }
        type Subscription { a: A @event(type: "x") @audience(keys: ["room:{id}", "tag:{id}/{b}", "all:{id}"]) }"#;
    let viewers = viewers(
        file,
        r#"{"rooms": [
        {"id": 1, "org": "a", "kind": "k", "name": "n", "tags": ["x", "t-b"]},
        {"id": 2, "org": "b", "kind": "k", "name": "m/m", "tags": null},
        {"id": 3, "org": "c", "kind": "k", "tags": ["t-b"]},
        {"id": 4, "org": "a"}]}"#,
    );
    let all = ["all:1", "all:2", "all:3", "all:4"];
    let with = |more: &[&'static str]| is("s", &[&all[..], more].concat());
    assert_eq!(
        of_claims(&viewers, json!({"sub": "s", "orgs": ["a", "b"], "kind": "k"})),
        with(&["room:1", "room:2", "tag:n/s"])
    );
    assert_eq!(of_claims(&viewers, json!({"sub": "s", "orgs": "a"})), with(&[]), "no value meets no row");
    assert_eq!(of_claims(&viewers, json!({"sub": "s", "orgs": ["z"], "kind": "k"})), with(&[]));
}

#[test]
fn too_many_interests_are_refused_by_name() {
    let viewers = viewers(ORDERS, "{}");
    let roles = |count: usize| json!({"sub": "s", "roles": (0..count).collect::<Vec<_>>()});
    assert_eq!(of_claims(&viewers, roles(999)).unwrap().1.len(), 1_000);
    let refused = of_claims(&viewers, roles(1_000)).unwrap_err();
    assert_eq!(refused, Refused::TooManyInterests("role:{roles}".into()));
    assert!(refused.to_string().contains("`role:{roles}` gives more than 1000 keys"));
    let long = of_claims(&viewers, json!({"sub": "s", "roles": "x".repeat(508)}));
    assert_eq!(long, Err(Refused::KeyTooLong("role:{roles}".into())));
}

#[test]
fn wrong_directories_are_refused() {
    let rules = Rules::parse(TUTORIAL).unwrap();
    let problems = |json: &str| match Directory::parse(json, &rules) {
        Err(DirectoryError::Wrong(problems)) => problems,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        problems("{}"),
        [
            "there is no table `locations`; add the list `locations`",
            "there is no table `users`; add the list `users`",
        ]
    );
    let json = r#"{"locations": [{"id": "1", "name": "a", "orgId": "o"}, {"id": 1, "name": "b", "orgId": "o"},
        {"id": "2"}, 7], "users": [{"id": "1", "type": "A"}, {"id": 1, "type": "a", "email": "E@x"},
        {"email": "e@X"}, [], {"id": "a\u0007"}, {"id": "LONG"}]}"#;
    let json = &json.replace("LONG", &"x".repeat(257));
    let expected = [
        "`locations`, row 2: its key is given twice",
        "`locations`, row 3: `name`: a value is expected",
        "`locations`, row 4: an object is expected",
        "`users`, row 2: its `id` is given twice",
        "`users`, row 3: it has no `id`",
        "`users`, row 3: its `email` is given twice",
        "`users`, row 4: it is no object",
        "`users`, row 5: `id`: at most 256 bytes without control characters are expected",
        "`users`, row 6: `id`: at most 256 bytes without control characters are expected",
    ];
    assert_eq!(problems(json), expected);
    assert!(matches!(Directory::parse("{", &rules), Err(DirectoryError::Malformed(_))));
    let large = format!("{{}}{}", " ".repeat(16 << 20));
    assert!(matches!(Directory::parse(&large, &rules), Err(DirectoryError::TooLarge)));
}
