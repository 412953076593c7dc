//! Tests of checked rules: the examples pass, and each mistake is one problem at its place.

use proptest::prelude::*;

use super::*;
use crate::domains::declared::types::{Kind, Scalar};

const TUTORIAL: &str = include_str!("../../tutorial.graphql");
const ORDERS: &str = include_str!("../../../../examples/orders/schema.graphql");
const CHAT: &str = include_str!("../../../../examples/chat/schema.graphql");
const NOTIFICATIONS: &str = include_str!("../../../../examples/notifications/schema.graphql");

fn problems(text: &str) -> Vec<String> {
    match Rules::parse(text) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn examples_have_no_problem() {
    for text in [TUTORIAL, ORDERS, CHAT, NOTIFICATIONS] {
        assert_eq!(problems(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn rules_hold_what_files_say() {
    let orders = Rules::parse(ORDERS).unwrap();
    let order = orders.types.id("Order").unwrap();
    let expected = EventRule { payload: order, fields: vec![0], is_projected: false };
    assert_eq!(orders.events["order.placed.v1"], expected);
    assert_eq!(orders.events["order.changed.v1"], expected);
    let field = &orders.subscriptions[0];
    assert_eq!((&*field.name, field.of, field.filters.len()), ("orderUpdated", order, 3));
    assert!(!field.audience.is_everyone && !field.audience.excludes_author);
    assert_eq!(field.keys[&order].len(), 2);
    assert_eq!(orders.interests.len(), 2);
    let total = &orders.types.fields(order)[3];
    assert_eq!(orders.types.get(total.of).kind, Kind::Scalar(Scalar::Float));

    let tutorial = Rules::parse(TUTORIAL).unwrap();
    let viewer = tutorial.viewer.unwrap();
    assert_eq!((&*viewer.table, &*viewer.id, viewer.token.as_deref()), ("users", "id", Some("type")));
    let rows = tutorial.interests[1].rows.as_ref().unwrap();
    assert_eq!((&*rows.table, rows.conditions.len()), ("locations", 1));
    assert!(tutorial.events["template.edited.v1"].fields.is_empty());
    assert!(tutorial.subscriptions[0].audience.excludes_author);

    let notifications = Rules::parse(NOTIFICATIONS).unwrap();
    let of = |name| notifications.types.id(name).unwrap();
    let keys = |name| {
        let templates = notifications.subscriptions[0].keys[&of(name)].iter();
        templates.map(|template| template.text().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(keys("Mention"), ["tenant:{tenantId}/user:{userIds}"]);
    assert_eq!(keys("Announcement"), ["tenant:{tenantId}/team:{teamIds}"]);
}

#[test]
fn ten_mistakes_are_ten_problems() {
    let text = r#"extend schema @interest(key: "user:{sub}") @viewers(table: "u")

type Order { id: ID!  total: Price!  parts(first: Int): [ID!]  customerId: ID! }

type Subscription {
  orderUpdated(id: ID @filter(field: "ident"), min: Int): Order
    @event(type: "order.changed.v1") @audience(keys: ["user:{customer}"])
  orderPlaced: Order @event(type: "order.placed.v1")
  other: String @event(kind: "x", type: "x") @audience(everyone: true)
}
type Mutation { place(id: ID!): Order @publish(type: "order.plated.v1") }
"#;
    let expected = [
        "1:44: there is no directive `@viewers`; correct it, or define or import it",
        "3:30: there is no type `Price`; define it or correct the name",
        "3:44: `parts` has an argument; fields of payloads have none",
        "6:38: there is no `ident` in `Order`; name a field with `field`",
        "6:48: `min` has no effect; add `@filter`, or use it in `@allow`",
        "7:54: there is no `customer` in `Order`; correct the path",
        "8:3: `orderPlaced` has no `@audience`; add its keys, or `everyone: true`",
        "9:10: `other` must be one object, interface or union; wrap the value in a type",
        "9:24: `@event` has no argument `kind`; it has type, as",
        "11:54: no field or projection reads events `order.plated.v1`; correct the type, or add `@event`",
    ];
    assert_eq!(problems(text), expected);
}

#[test]
fn key_without_partner_is_found_beside_mistakes() {
    let text = r#"extend schema @interest(key: "user:{sub}") @interest(key: "teams:{teams}")
  @interest(key: "org:{org}-{sub}") @interests(key: "room:{rooms}")
type T { id: ID! }
type Subscription {
  a: T! @event(type: "a.v1") @audience(keys: ["user:{id}"])
  b: T @event(type: "b.v1") @audience(keys: ["users:{id}", "team:{id}"])
  c: T @event(type: "c.v1") @audience(keys: ["org:{id}", "room:{id}"])
}
"#;
    let expected = [
        "1:59: no audience or `@allow` can equal `teams:{teams}`; correct it",
        "2:18: `{org}` must fill a whole segment; put `/`, `:` or `|` between it and its neighbours",
        "2:37: there is no directive `@interests`; correct it, or define or import it",
        "5:6: `a` must be nullable, since null announces a gap; leave out the `!`",
        "6:45: no viewer can listen to `team:{id}`; correct it, or add an `@interest`",
        "6:45: no viewer can listen to `users:{id}`; correct it, or add an `@interest`",
    ];
    assert_eq!(problems(text), expected);
    // The missing audience may be the one of `teams:{teams}`.
    let missing = text.replace(r#" @audience(keys: ["user:{id}"])"#, "");
    assert!(!problems(&missing).iter().any(|problem| problem.contains("can equal")));
}

#[test]
fn syntax_error_stands_alone() {
    let found = problems("type Query {\n  a: @\n}\ntype A { b: Missing }");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("2:6: the file is not GraphQL: expected "), "{found:?}");
    assert!(problems(&"#".repeat((1 << 20) + 1))[0].starts_with("1:1: the file has 1048577 bytes"));
}

/// Replaces one part of a file that has no problem, and returns the problems.
fn edited(text: &str, from: &str, to: &str) -> Vec<String> {
    assert_eq!(text.matches(from).count(), 1, "{from} is unique");
    problems(&text.replace(from, to))
}

/// Checks that each edit is one problem. A line holds the part that is replaced, what replaces it,
/// and the text of the problem.
fn each_is_one_problem(text: &str, mistakes: &str) {
    for line in mistakes.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let [from, to, expected] = line.split("=>").map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let found = edited(text, from, to);
        assert!(found.len() == 1 && found[0].contains(expected), "{line}: {found:#?}");
    }
}

#[test]
fn mistakes_in_types_are_found() {
    each_is_one_problem(
        ORDERS,
        r#"
        scalar DateTime => scalar DateTime scalar DateTime => `DateTime` is defined twice
        scalar DateTime => scalar DateTime scalar ID => `ID` is built in
        scalar DateTime => scalar DateTime scalar __X => begins with `__`
        scalar DateTime => scalar DateTime extend type X { a: ID } => no type `X` to extend
        scalar DateTime => scalar DateTime extend enum Item { A } => another kind of type
        sku: ID! => sku: ID! sku: ID => field `sku` stands twice
        PLACED PAID => PLACED PLACED PAID => value `PLACED` stands twice
        scalar DateTime => scalar DateTime union U = Item | Item => member `Item` stands twice
        scalar DateTime => scalar DateTime union U = DateTime => is not an object type
        scalar DateTime => scalar DateTime union U = Nothing => there is no type `Nothing`
        type Item { => type Item implements Order { => `Order` is not an interface
        sku: ID! => sku: ID! bad: Subscription => is a root, not a value
        sku: ID! => sku: ID! bad: I } input I { a: ID => is an input type
        scalar DateTime => scalar DateTime input I { a: Item } => is an output type
        scalar DateTime => schema { query: Query subscription: Sub } type Sub { a: ID } scalar DateTime => name it `Subscription`
        sku: ID! => sku: ID! x: U } union U = Item | Order type Z { a: ID => has no one type
        "#,
    );
    each_is_one_problem(
        NOTIFICATIONS,
        r#"
        tenantId: ID!  title: String!  userIds => tenantId: ID!  userIds => lacks the field `title`
        title: String!  userIds => title: String  userIds => `title` has another type
        title: String! } => title: String! @from(path: "t") } => `@from` has no meaning here
        "#,
    );
}

#[test]
fn mistakes_in_fields_are_found() {
    each_is_one_problem(
        ORDERS,
        r#"
        "customer.id" => "$maker" => `$maker` is no path
        "customer.id" => "customer..id" => is no path
        "customer.id" => "$uuid" => is not part of an event
        total: Float! => total: Float! x: Int @from(path: "$time") => is a text
        sku: ID! => sku: ID! @constraint(min: 1) => `min` is for Int and Float only
        quantity: Int! => quantity: Int! @constraint(trim: true) => `trim` is for ID and String only
        sku: ID! => sku: ID! @constraint(maxItems: 3) => `maxItems` is for lists only
        sku: ID! => sku: ID! @constraint(minLength: 3, maxLength: 2) => `minLength` is above `maxLength`
        sku: ID! => sku: ID! @constraint(minLength: -1) => must be a whole number
        sku: ID! => sku: ID! @constraint(minLength: 1) @constraint(maxLength: 3) => stands twice here
        @from(path: "customer.id") => @from => `@from` needs `path`
        "#,
    );
}

#[test]
fn mistakes_in_subscriptions_are_found() {
    each_is_one_problem(
        ORDERS,
        r#"
        AT_LEAST)): Order => AT_LEAST)): Order! => must be nullable
        (id: ID @filter, => (after: String, id: ID @filter, => the engine adds `after` itself
        order.changed.v1 => order.placed.v1 => stands twice on `orderUpdated`
        order.changed.v1 => relay.heartbeat.v1 => does not begin with `relay.`
        order.changed.v1") => order.changed.v1", as: "Order") => leave `as` out
        keys: ["user:{customerId}", "role:support"] => keys: ["user:{customerId}", "role:support"], everyone: true => either everyone or has keys
        keys: ["user:{customerId}", "role:support"] => exceptAuthor: true => the audience is empty
        "user:{customerId}" => "user:{total}" => is a Float, which makes no key
        "user:{customerId}" => "user:{items}" => is an object
        "user:{customerId}" => "user:{$viewer.id}" => an audience depends on the data only
        "user:{customerId}" => "user{customerId}" => must fill a whole segment
        "#,
    );
    each_is_one_problem(
        NOTIFICATIONS,
        r#"
        , as: "Mention" =>  => name the type of the data with `as`
        as: "Mention" => as: "Mentions" => is no object type of `Notification`
        "#,
    );
    let two = "type A { id: ID! } type B { id: ID! } type Subscription {
        a: A @event(type: \"x\") @audience(everyone: true)
        b: B @event(type: \"x\") @audience(everyone: true) }";
    assert!(problems(two)[0].contains("event `x` is `B` here and `A` elsewhere"), "{:?}", problems(two));
}

#[test]
fn key_that_meets_no_interest_is_refused() {
    let found = edited(ORDERS, "\"user:{customerId}\"", "\"users:{customerId}\"");
    assert!(found[0].contains("no audience or `@allow` can equal `user:{sub}`"), "{found:?}");
    assert!(found[1].contains("no viewer can listen to `users:{customerId}`"), "{found:?}");
    assert_eq!(found.len(), 2);
}

#[test]
fn mistakes_in_filters_are_found() {
    each_is_one_problem(
        ORDERS,
        r#"
        (id: ID @filter, => (id: Int @filter, => `id` must be `ID` or a list of it
        (id: ID @filter, => (id: [[ID]] @filter, => `id` must be `ID` or a list of it
        (id: ID @filter, => (items: ID @filter, => `items` is an object
        op: AT_LEAST => op: EQUALS => compares a Float for equality
        op: AT_LEAST => op: NEAR => one of EQUALS, ABOVE
        [OrderStatus!] @filter => [OrderStatus!] @filter(op: ABOVE) => only single numbers and texts
        [OrderStatus!] @filter => OrderStatus @filter(op: ABOVE) => only single numbers and texts
        minTotal: Float => minTotal: [Float] => only single numbers and texts
        (id: ID @filter, => (id: ID @filter, sku: ID @filter(field: "items.sku"), customerId: ID @filter, => 4 indexed arguments
        "#,
    );
    assert!(edited(ORDERS, "minTotal: Float", "minTotal: Int").is_empty(), "an Int is a Float");
    assert!(edited(ORDERS, "(id: ID @filter,", "(id: String @filter,").is_empty(), "a text is an id");
}

#[test]
fn mistakes_in_interests_are_found() {
    each_is_one_problem(
        TUTORIAL,
        r#"
        "location:{locationId}" => "location" => has no path
        of: "Location" => of: "Template" => `Template` is no type with `@table`
        of: "Location" => of: "Places" => `Places` is no type with `@table`
        , of: "Location" =>  => name its type with `of`
        { orgId: "{orgId}" } => { org: "{orgId}" } => `Location` has no column `org`
        { orgId: "{orgId}" } => { orgId: 7 } => `orgId` must be a text
        { orgId: "{orgId}" } => { orgId: "{$author}" } => is not known here
        "location:{id}" => "location:{ident}" => there is no `ident` in `Location`
        @viewer(table: "users",  => @viewer( => `@viewer` needs `table`
        "#,
    );
}

#[test]
fn mistakes_in_state_and_queries_are_found() {
    each_is_one_problem(
        TUTORIAL,
        r#"
        @table(name: "locations", key: "id") => @table(name: "locations", key: "ident") => has no field `ident`
        @table(name: "locations", key: "id") { => @table(name: "locations", key: "orgs") { orgs: [ID!]! => must be one `ID!`
        templates: [Template!] @audience(everyone: true) => templates: [Template!] => `templates` has no `@audience`
        templates: [Template!] @audience(everyone: true) => templates: [Template!] @audience(everyone: true, exceptAuthor: true) => for subscriptions only
        templates: [Template!] => templates: [CommonResponse!] => `CommonResponse` has no values
        templates: [Template!] => templates: [[Template!]] => not a list of lists
        templateById(id: ID! @filter) => templateById(id: ID @filter) => add a non-null argument
        templates: [Template!] => templates(first: Int): [Template!] => the engine adds `first` itself
        templates: [Template!] => _service: [Template!] => the engine keeps `_service`
        "#,
    );
}

#[test]
fn mistakes_in_mutations_are_found() {
    each_is_one_problem(
        CHAT,
        r#"
        @publish(type: "message.posted.v1") =>  => `postMessage` has no `@publish`
        (room: ID!, text: String!): Message => (room: ID!): Message => nothing gives `text` of the event
        (room: ID!, text: String!): Message => (room: ID!, text: String!): Int => the event is no `Int`
        @publish(type: "message.posted.v1") => @publish(type: "message.posted.v1", data: { author: "x" }) => part of the event's envelope
        @publish(type: "message.posted.v1") => @publish(type: "message.posted.v1", data: { txt: "x" }) => has no field `txt`
        @publish(type: "message.posted.v1") => @publish(type: "message.posted.v1", data: { text: "{txt}" }) => there is no argument `txt`
        @publish(type: "message.posted.v1") => @publish(type: "message.posted.v1") @audience(keys: ["room:{room}"]) => add `update: true`
        (room: ID!, text: String!): Message @allow(key: "room:{room}") => (room: ID!, text: String!): Message @allow(key: "room:{rom}") => there is no argument `rom`
        (room: ID!, text: String!): Message => (room: ID!, text: Boolean!): Message => `text` never fits the event: `String` is expected
        (room: ID!, text: String!): Message => (room: ID!, text: [String!]!): Message => `text` never fits the event: `String` is expected
        author: ID @from(path: "$author") => author: ID @from(path: "$author") title: ID @from(path: "text.title") => a mutation writes `text` to the place of
        author: ID @from(path: "$author") => author: ID @from(path: "$author") other: ID @from(path: "id") => a mutation writes `other` to the place of
        author: ID @from(path: "$author") => author: ID @from(path: "$author") to: To } type To { id: ID a: ID @from(path: "id") => a mutation writes `a` to the place of
        @publish(type: "message.posted.v1") => @publish(type: "message.posted.v1", data: { text: 7 }) => `text` has a value that never fits: a text is expected
        @publish(type: "message.posted.v1") => @publish(type: "message.posted.v1", data: { text: "" }) => 1 to 1000 characters are expected
        @publish(type: "message.posted.v1") => @publish(type: "message.posted.v1", data: { text: null }) => a value is expected
        @publish(type: "message.posted.v1") => @publish(type: "message.posted.v1", data: { text: ["{text}"] }) => `String` is expected
        @publish(type: "message.posted.v1") => @publish(type: "message.posted.v1", data: { text: "a\n{x}" }) => there is no argument `x`
        "#,
    );
    each_is_one_problem(
        TUTORIAL,
        r#"
        answer: { success: true, message: "template added" => answer: { message: "template added" => the answer lacks `success`
        message: "template added" => text: "template added" => `CommonResponse` has no field `text`
        message: "template added" => message: "added {$data}" => is not known here
        message: "template added" => message: "for {templateInput.shareLocationIds}" => which no longer text can hold
        message: "template added" => message: "for {$data.shareLocationIds}" => which no longer text can hold
        message: "template added" => message: "for {$data.names}" => there is no `$data.names` in `Template`; correct the path
        message: "template added" => message: "{$data.shareLocationId}" => there is no `$data.shareLocationId`
        message: "template added" => message: "{$data}" => `message` has a value that never fits: `String` is expected
        message: "template added" => message: "{$data.shareLocationIds}" => `String` is expected
        message: "template added" => message: true => a text is expected
        success: true, message: "template added" => success: "{$data.name}", message: "template added" => `Boolean` is expected
        success: true, message: "template added" => success: "is {$uuid}", message: "template added" => `Boolean` is expected
        success: true, message: "template added" => success: null, message: "template added" => a value is expected
        editTemplate(templateInput: EditTemplateInput!) => editTemplate(templateInput: AddTemplateInput!) => nothing gives `id` of the event
        addTemplate(templateInput: AddTemplateInput!) => addTemplate(templateInput: AddTemplateInput!, more: AddTemplateInput) => two inputs have
        "#,
    );
}

#[test]
fn values_that_may_fit_are_let_through() {
    let with = |data: &str| {
        let to = format!("@publish(type: \"message.posted.v1\", data: {{ {data} }})");
        edited(CHAT, "@publish(type: \"message.posted.v1\")", &to)
    };
    for data in [
        "id: null",
        "id: 7",
        "id: \"{$uuid}\"",
        "text: \"{room}\"",
        "room: \"{$viewer.rooms}\"",
        "text: \"{$viewer.id}: {text}\"",
    ] {
        assert_eq!(with(data), Vec::<String>::new(), "{data}");
    }
    let answer = |answer: &str| edited(TUTORIAL, "success: true, message: \"template added\"", answer);
    for text in [
        "success: true, message: \"{$data.id}\"",
        "success: true, message: null",
        "success: true, message: \"{templateInput.name} {$data.name}\"",
    ] {
        assert_eq!(answer(text), Vec::<String>::new(), "{text}");
    }
    assert_eq!(
        edited(
            TUTORIAL,
            "template: \"{$data}\" })\n  \"Edits",
            "template: { id: \"{$data.id}\", name: \"n\" } })\n  \"Edits"
        ),
        Vec::<String>::new()
    );
}

#[test]
fn update_needs_event_of_its_projection() {
    let delivered = TUTORIAL.replace(
        "@event(type: \"template.added.v1\")",
        "@event(type: \"template.added.v1\") @event(type: \"template.edited.v1\")",
    );
    assert_eq!(problems(&delivered), Vec::<String>::new());
    let found = problems(&delivered.replace(", \"template.edited.v1\"]", "]"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("`@projection` of `Template` lacks `template.edited.v1`"), "{found:?}");
}

#[test]
fn problem_is_one_line() {
    let found = edited(ORDERS, "user:{customerId}", "user:{customer\\nId}");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains(r"there is no `customer\nId` in `Order`"), "{found:?}");
}

#[test]
fn overlapping_places_may_be_read() {
    let read = edited(ORDERS, "customerId: ID!", "customer: Customer  customerId: ID!");
    assert!(read.iter().all(|problem| problem.contains("no type `Customer`")), "{read:?}");
    let read = edited(ORDERS, "customerId: ID!", "sameId: ID! @from(path: \"id\")  customerId: ID!");
    assert_eq!(read, Vec::<String>::new());
}

#[test]
fn mistakes_of_mutations_come_in_one_run() {
    let text = r#"extend schema @interest(key: "user:{sub}")
type Note @projection(key: "id", events: ["note.set"]) {
  id: ID!  size: Int  tags: [String!]
  first: String @from(path: "tags.first")
}
type Done { ok: Boolean!  text: String }
type Mutation {
  set(id: ID!, tags: [String!], size: Int): Done @allow(key: "user:{id}")
    @publish(type: "note.set", data: { size: "big" }, answer: { ok: 1, text: "for {$data.tags} {$data.tag}" })
  move(id: ID!): Note @publish(type: "note.moved", update: true)
}
type Subscription { moved: Note @event(type: "note.moved") @audience(keys: ["user:{id}"]) }
"#;
    let expected = [
        "4:29: a mutation writes `first` to the place of another field of `Note`; read it from another path",
        "9:38: `size` has a value that never fits: a whole number is expected; correct it",
        "9:63: `$data.tags` is a list or an object, which no longer text can hold",
        "9:63: `ok` has a value that never fits: true or false is expected; correct it",
        "9:63: there is no `$data.tag` in `Note`; correct the path",
        "10:38: `@projection` of `Note` lacks `note.moved`, so that no update shows; add it there",
    ];
    assert_eq!(problems(text), expected);
}

#[test]
fn foreign_directives_pass_through() {
    let link = r#"extend schema @link(url: "https://specs.apollo.dev/federation/v2.4", import: ["@key", {name: "@tag", as: "@mark"}])
        directive @mine on OBJECT
        directive @event(type: String!, as: String) repeatable on FIELD_DEFINITION
        type A @key(fields: "id", resolvable: false) @mine @mark(name: "x") @federation__shareable {
            id: ID! @deprecated(reason: "old") }
        type Subscription { a: A @event(type: "x") @audience(everyone: true) }"#;
    assert_eq!(problems(link), Vec::<String>::new());
    assert_eq!(problems(&link.replace("@key(fields", "@keys(fields")).len(), 1);
    assert_eq!(problems(&link.replace("federation__", "other__")).len(), 1);
}

#[test]
fn extensions_are_merged() {
    let text = r#"type A { id: ID! } extend type A { name: String }
        extend type Subscription { a(name: String @filter): A @event(type: "x") @audience(everyone: true) }"#;
    let rules = Rules::parse(text).unwrap();
    assert_eq!(rules.types.fields(rules.types.id("A").unwrap()).len(), 2);
}

proptest! {
    #[test]
    fn broken_files_never_panic(
        example in 0usize..5,
        from in any::<prop::sample::Index>(),
        length in 0usize..40,
        text in "[ -~]{0,12}",
    ) {
        let envelope = r#"extend schema @envelope(type: "order.{$data.what}.v1", id: "{no}", author: "{by}") "#;
        let mapped = format!("{envelope}{ORDERS}");
        let mut file = [TUTORIAL, ORDERS, CHAT, NOTIFICATIONS, &mapped][example].to_owned();
        let from = from.index(file.len());
        let to = (from + length).min(file.len());
        file.replace_range(from..to, &text);
        let found = Rules::parse(&file).err().unwrap_or_default();
        prop_assert!(found.is_sorted());
        prop_assert!(found.iter().all(|problem| !problem.text.contains('\n')), "one line each");
    }
}
