//! The programs of docs/POSTGRES.md, run as they stand: psql, Node and Python.
//!
//! An event must appear at the commit of its transaction, and never after a rollback.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use pubsub_relay::broker::postgres::schema;

use crate::{
    WINDOW, next,
    packages::{has, install, install_python, skip},
    postgres, topic, until_open,
};

const GUIDE: &str = include_str!("../../docs/POSTGRES.md");

/// Returns the block of the guide in this language that publishes.
fn block(language: &str) -> &'static str {
    let blocks = GUIDE.split("```").skip(1).step_by(2);
    let code = blocks.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'));
    code.into_iter().find(|code| code.contains("relay.publish(")).unwrap_or_else(|| panic!("no {language}"))
}

/// Runs a program twice, first in a form that rolls back. Exactly the second one's event appears.
async fn publishes_at_commit(language: &str, run: impl Fn(&str, &str) -> Command) {
    let Some((host, database)) = postgres::fresh(language).await else { return };
    let owner = postgres::connect(&host, &database).await;
    owner.batch_execute(&schema::script("relay")).await.unwrap();
    owner.batch_execute("create table orders (id int, total int)").await.unwrap();
    let pod = topic(&host, &database, "relay").open("pod", WINDOW).unwrap();
    let mut feed = pod.open_feed();
    until_open(&feed).await;
    let code = block(language);
    let rolled_back = match language {
        "python" => format!("{code}    connection.rollback()\n"),
        _ => code.replace("commit", "rollback"),
    };
    assert_ne!(rolled_back, code);
    for code in [&*rolled_back, code] {
        let output = run(code, &format!("postgres://relay@{host}/{database}")).output().unwrap();
        assert!(output.status.success(), "{language}: {output:?}");
    }
    let heard = next(&mut feed).await;
    assert_eq!((&*heard.kind, heard.author.as_deref()), ("order.placed.v1", Some("zowi")), "{language}");
    let count = owner.query_one("select count(*) from relay.events", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 1, "{language}: nothing after a rollback");
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_publishes_at_commit() {
    if !has("psql") {
        return skip("psql is missing: install the package postgresql-client");
    }
    publishes_at_commit("sql", |code, url| {
        let mut psql = Command::new("psql");
        psql.args(["--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--command", code, url]).stdin(Stdio::null());
        psql
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_publishes_at_commit() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql");
    if !has("npm") {
        return skip("npm is missing: install Node 20 or later");
    }
    install(&project);
    publishes_at_commit("js", |code, url| {
        let program = format!(
            "import pg from 'pg'\nconst client = new pg.Client(process.env.URL)\n\
             await client.connect()\n{code}await client.end()\n"
        );
        let mut node = Command::new("node");
        node.args(["--input-type=module", "--eval", &program]).env("URL", url).current_dir(&project);
        node
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_publishes_at_commit() {
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql/requirements.txt");
    if !has("python3") {
        return skip("Python is missing: install Python 3.11 or later");
    }
    let python = install_python("psycopg", &requirements);
    publishes_at_commit("python", |code, url| {
        let program = format!("import os\nurl = os.environ['URL']\n{code}");
        let mut command = Command::new(&python);
        command.args(["-c", &program]).env("URL", url);
        command
    })
    .await;
}
