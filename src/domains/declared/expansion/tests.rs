//! Tests of expansion: lists, forgery, bounds.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn key(text: &str) -> Template {
    Template::parse_key(text).unwrap()
}

fn expand(template: &str, document: &Value, most: usize) -> Result<Vec<String>, Excess> {
    let mut keys = Keys::new(most);
    let root = |root| (root == Root::Document).then_some(document);
    key(template).expand(root, &mut keys)?;
    Ok(keys.into_keys().map(|key| key.to_string()).collect())
}

fn keys(template: &str, document: &Value) -> Vec<String> {
    expand(template, document, 1_000).unwrap()
}

#[test]
fn placeholder_without_value_gives_no_key() {
    for document in [
        json!({}),
        json!({"a": null}),
        json!({"a": ""}),
        json!({"a": []}),
        json!({"a": {}}),
        json!({"a": {"b": "x"}}),
        json!({"a": 1.5}),
        json!({"a": [null, "", {}]}),
        json!([]),
        json!("a"),
    ] {
        assert!(keys("room:{a}", &document).is_empty(), "{document}");
        let beside = json!({"a": document.get("a"), "b": ["x", "y"]});
        assert!(keys("room:{b}/{a}", &beside).is_empty());
    }
}

#[test]
fn texts_numbers_and_booleans_make_keys() {
    let document = json!({"a": ["x", 7, -7, true, 18_446_744_073_709_551_615_u64, 1.5, null]});
    let expected = ["k:-7", "k:18446744073709551615", "k:7", "k:true", "k:x"];
    assert_eq!(keys("k:{a}", &document), expected);
}

#[test]
fn placeholders_share_elements_of_one_list() {
    let document = json!({
        "seats": [{"org": "a", "role": ["r", "s"]}, {"org": "b", "role": "t"}, {"org": "c"}],
        "teams": ["1", "2"],
    });
    assert_eq!(keys("{seats.org}/{seats.role}", &document), ["a/r", "a/s", "b/t"]);
    assert_eq!(keys("{seats.org}/{seats.org}", &document), ["a/a", "b/b", "c/c"]);
    assert_eq!(keys("{seats.role}/{teams}", &document), ["r/1", "r/2", "s/1", "s/2", "t/1", "t/2"]);
}

#[test]
fn list_of_lists_keeps_elements_apart() {
    let document = json!({"a": [[{"x": 1, "y": 2}, {"x": 3, "y": 4}], [{"x": 5, "y": 6}]]});
    assert_eq!(keys("{a.x}:{a.y}", &document), ["1:2", "3:4", "5:6"]);
}

#[test]
fn exact_claim_comes_before_path() {
    let document =
        json!({"https://example.com/roles": ["r"], "a.b": ["exact"], "a": {"b": "path", "c": "c"}});
    assert_eq!(keys("role:{https://example.com/roles}", &document), ["role:r"]);
    assert_eq!(keys("{a.b}/{a.c}", &document), ["exact/c"]);
    assert_eq!(keys("groups:{cognito:groups}", &json!({"cognito:groups": ["g"]})), ["groups:g"]);
}

#[test]
fn values_are_escaped() {
    assert_eq!(keys("user:{sub}", &json!({"sub": "a/b:c|d%2F"})), ["user:a%2Fb%3Ac%7Cd%252F"]);
}

#[test]
fn keys_are_bounded() {
    let ids: Vec<usize> = (0..40).collect();
    let document = json!({"a": ids, "b": ids, "same": vec!["x"; 5_000], "none": vec![Value::Null; 400]});
    assert_eq!(expand("{a}/{b}", &document, 1_600).unwrap().len(), 1_600);
    assert_eq!(expand("{a}/{b}", &document, 1_599), Err(Excess::Keys));
    assert_eq!(expand("{same}", &document, 1).unwrap(), ["x"]);
    assert_eq!(expand("{same}/{none}", &document, 1), Err(Excess::Keys), "visits are bounded");
    assert_eq!(expand("{a}", &json!({"a": "x".repeat(512)}), 1).unwrap().len(), 1);
    assert_eq!(expand("{a}", &json!({"a": "x".repeat(513)}), 1), Err(Excess::Bytes));
    assert_eq!(expand("{a}", &json!({"a": "/".repeat(171)}), 1), Err(Excess::Bytes));
    let dead = json!({"a": "x".repeat(600), "b": null});
    assert!(expand("{a}/{b}", &dead, 1).unwrap().is_empty(), "a key that does not come about is not long");
}

/// Ids made of separators, escapes and braces.
fn id() -> impl Strategy<Value = String> {
    "[/:|%{}a2F57C3.]{1,6}"
}

proptest! {
    #[test]
    fn ids_never_forge_keys(ours in (id(), id()), others in (id(), id())) {
        let document = |(tenant, user): &(String, String)| json!({"tenant": tenant, "user": user});
        let (mine, theirs) = (document(&ours), document(&others));
        for template in ["tenant:{tenant}/user:{user}", "{tenant}|{user}", "{tenant}/{user}/x:y"] {
            let is_same = keys(template, &mine) == keys(template, &theirs);
            prop_assert_eq!(is_same, ours == others);
        }
        // A shorter template never meets a longer one.
        prop_assert_ne!(keys("tenant:{tenant}/user:{user}", &mine), keys("tenant:{tenant}", &theirs));
    }

    #[test]
    fn independent_lists_are_combined(
        ours in prop::collection::vec(id(), 0..5),
        others in prop::collection::vec(id(), 0..5),
    ) {
        let single = |id: &String| keys("{a}", &json!({"a": id})).remove(0);
        let pairs: BTreeSet<String> = ours.iter().flat_map(|ours| {
            others.iter().map(move |other| format!("{}/{}", single(ours), single(other)))
        }).collect();
        let document = json!({"a": ours, "b": others});
        prop_assert_eq!(keys("{a}/{b}", &document), pairs.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn keys_of_equal_templates_unify(text in "[{}cd:/|%$.]{0,12}", other in "[{}cd:/|%$.]{0,12}", id in id()) {
        let (Ok(ours), Ok(others)) = (Template::parse_key(&text), Template::parse_key(&other)) else {
            return Ok(());
        };
        let document = json!({"c": id, "d": "d", "cc": "d", "cd": "c", "dc": id, "dd": "c"});
        let (ours_keys, other_keys) = (keys(&text, &document), keys(&other, &document));
        let meet = ours_keys.iter().any(|key| other_keys.contains(key));
        prop_assert!(!meet || ours.may_equal(&others));
    }
}
