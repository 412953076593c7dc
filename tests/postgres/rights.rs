//! The rights of docs/POSTGRES.md: what pods and publishers may do, and nothing else.
//!
//! The server itself must refuse the rest, whatever this program asks for.

use pubsub_relay::broker::{Publish as _, Trim as _, postgres::schema};

use crate::{WINDOW, event, next, postgres, topic};

/// Returns the SQL of the guide that creates roles, without their passwords. Roles belong to the
/// whole server, so each test has its own names.
fn documented_roles(suffix: &str) -> String {
    let guide = include_str!("../../docs/POSTGRES.md").replace("   ", "");
    let blocks = guide.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    let roles: Vec<_> = blocks.filter(|block| block.starts_with("create role")).collect();
    assert_eq!(roles.len(), 2, "pods and publishers");
    let sql = roles.concat().replace(" password '…'", "");
    sql.replace("relay_pods", &format!("relay_pods{suffix}")).replace("shop", &format!("shop{suffix}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_rights_suffice_and_bound() {
    let Some((host, database)) = postgres::fresh("the rights of roles").await else { return };
    let owner = postgres::connect(&host, &database).await;
    owner.batch_execute(&schema::script("relay")).await.unwrap();
    owner.batch_execute(&documented_roles("_a")).await.unwrap();

    let pod = topic(&host, &database, "relay_pods_a").open("pod", WINDOW).unwrap();
    let mut feed = pod.open_feed();
    pod.publisher().publish(&event("{}")).await.unwrap();
    assert_eq!(next(&mut feed).await.data, "{}");
    owner.batch_execute("update relay.events set position = 1").await.unwrap();
    assert_eq!(pod.trimmer().trim().await.unwrap(), 1, "an event of 1970 is old");
    let trimmed_to = owner.query_one("select trimmed_to from relay.topic", &[]).await.unwrap();
    assert_eq!(trimmed_to.get::<_, i64>(0), 1);

    let denied = async |user: &str, sql: &str| {
        let refused = postgres::connect_as(&host, &database, user).await.batch_execute(sql).await;
        let refused = refused.expect_err(sql);
        assert_eq!(refused.code().map(|code| code.code()), Some("42501"), "{user}: {sql}: {refused}");
    };
    denied(
        "relay_pods_a",
        "insert into relay.events (position, id, source, type, data) values (1, 'a', 'b', 'c', 'd')",
    )
    .await;
    denied("relay_pods_a", "update relay.topic set version = 9").await;
    denied("relay_pods_a", "drop table relay.events").await;
    let shop = postgres::connect_as(&host, &database, "shop_a").await;
    shop.execute("select relay.publish('order.placed.v1', '{\"id\": 7}', author => 'zowi')", &[])
        .await
        .unwrap();
    assert_eq!(&*next(&mut feed).await.kind, "order.placed.v1");
    for table in ["events", "outbox", "topic"] {
        denied("shop_a", &format!("select from relay.{table}")).await;
    }
    denied("shop_a", "insert into relay.outbox (type, data) values ('t', '{}')").await;
    denied("shop_a", "select relay.tick()").await;
}
