//! `relay publish`: runs a mutation over HTTP and prints what it returns.

use std::{io::Write, time::Duration};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde_json::{Map, Value, json};

use super::{failure::Failure, paint::Paint, target::Target};

/// Longest time for the whole answer. A pod gives a mutation 5 s.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// Mutation to run.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Pod and user.
    pub target: Target,
    /// GraphQL document.
    pub document: String,
    /// Its variables.
    pub variables: Map<String, Value>,
}

/// Runs the mutation and writes its data to `out`, as one line of JSON.
///
/// # Errors
/// [`Failure`], if no pod answers, or the pod refuses.
pub async fn publish(
    Publish { target, document, variables }: &Publish,
    out: &mut (dyn Write + Send),
    paint: Paint,
) -> Result<(), Failure> {
    let unreachable = |error: reqwest::Error| Failure::unreachable(target.name(), &error.without_url());
    let body = json!({ "query": document, "variables": variables }).to_string();
    let request = target.client().map_err(unreachable)?.post(target.url().clone());
    let request =
        request.header(AUTHORIZATION, target.authorization()?).header(CONTENT_TYPE, "application/json");
    let answer = request.timeout(PATIENCE).body(body).send().await.map_err(unreachable)?;
    let status = answer.status().as_u16();
    let text = answer.text().await.map_err(unreachable)?;
    let no_pod = Failure::NoPod { url: target.name().to_owned(), status };
    let Ok(Value::Object(answer)) = serde_json::from_str(&text) else { return Err(no_pod) };
    let why = errors(answer.get("errors"));
    match (status, &*why) {
        (401 | 403, _) => return Err(Failure::Token(why)),
        (503, _) => return Err(Failure::Busy { url: target.name().to_owned(), why }),
        (_, "") if answer.contains_key("data") => {}
        (_, "") => return Err(no_pod),
        _ => return Err(Failure::Refused(why)),
    }
    let data = answer.get("data").unwrap_or(&Value::Null);
    let mark = if paint.is_on { paint.good("published ") } else { String::new() };
    writeln!(out, "{mark}{data}").map_err(|error| Failure::Output(error.to_string()))
}

/// Returns the messages of GraphQL errors with their codes; empty if there is none.
pub(super) fn errors(errors: Option<&Value>) -> String {
    let sentence = |error: &Value| {
        let message = error["message"].as_str().unwrap_or("no reason given");
        match error["extensions"]["code"].as_str() {
            Some(code) => format!("{message} ({code})"),
            None => message.to_owned(),
        }
    };
    let errors = errors.and_then(Value::as_array).into_iter().flatten();
    errors.map(sentence).collect::<Vec<_>>().join("; ")
}
