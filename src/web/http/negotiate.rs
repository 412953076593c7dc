//! Content negotiation: which media types a client accepts, and which one it sends.
//!
//! All transports over HTTP read `Accept` here. It never looks at the operation: the caller decides
//! whether one result is sent or many.

use axum::http::{
    HeaderMap,
    header::{ACCEPT, CONTENT_TYPE, HeaderName},
};

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `application/graphql-response+json`: the status tells whether the request was run.
    GraphqlResponseJson,
    /// `application/json`: every request that was understood gets 200.
    Json,
    /// `text/event-stream`: graphql-sse.
    EventStream,
    /// `multipart/mixed;subscriptionSpec="1.0"`: Apollo's protocol.
    Multipart,
}

/// Forms of one result, in the order that decides ties. JSON is first because the audits of
/// graphql-http expect it for `*/*`.
const RESULT: [Form; 4] = [Form::Json, Form::GraphqlResponseJson, Form::EventStream, Form::Multipart];
/// Forms of many results, in the order that decides ties.
const STREAM: [Form; 2] = [Form::EventStream, Form::Multipart];

/// Media types that a client accepts.
#[derive(Debug)]
pub struct Accept {
    /// `None`: the request has no `Accept` header.
    ranges: Option<Vec<Range>>,
}

/// Media range with its weight, in thousandths.
#[derive(Debug)]
struct Range {
    essence: String,
    parameters: Vec<(String, String)>,
    weight: u16,
}

impl Accept {
    /// Reads the `Accept` headers. A part that cannot be read accepts nothing.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(ACCEPT).iter().peekable();
        if values.peek().is_none() {
            return Self { ranges: None };
        }
        let texts = values.filter_map(|value| value.to_str().ok());
        Self { ranges: Some(texts.flat_map(|text| split(text, ',')).filter_map(Range::parse).collect()) }
    }

    /// Returns the form of one result; `None` if the client accepts no form that the pod has.
    #[must_use]
    pub fn result(&self) -> Option<Form> {
        // The specification changed its default in 2025. Its audits, and clients without `Accept`,
        // are older.
        self.best(&RESULT, Form::Json)
    }

    /// Returns the form of many results; `None` if the client names no stream that the pod has.
    #[must_use]
    pub fn stream(&self) -> Option<Form> {
        self.ranges.as_ref()?;
        self.best(&STREAM, Form::EventStream)
    }

    /// Reports whether the client prefers a page to JSON, as a browser does that opens an address.
    #[must_use]
    pub fn prefers_page(&self) -> bool {
        let ranges = self.ranges.as_deref().unwrap_or_default();
        let page = ranges.iter().find(|range| range.essence == "text/html").map_or(0, |range| range.weight);
        let json = [Form::Json, Form::GraphqlResponseJson].into_iter();
        let json = json.filter_map(|form| Some(most_specific(ranges, form)?.1.weight)).max();
        page > json.unwrap_or_default()
    }

    fn best(&self, answers: &[Form], default: Form) -> Option<Form> {
        let Some(ranges) = &self.ranges else { return Some(default) };
        let weighed = answers.iter().filter_map(|&answer| {
            let (place, range) = most_specific(ranges, answer)?;
            (range.weight > 0).then_some((answer, range.weight, place))
        });
        // The greatest weight decides, then the client's order, then ours. One result is sent as a
        // stream only if the client accepts nothing else.
        let key = |&(answer, weight, place): &(Form, u16, usize)| {
            (answers.len() == RESULT.len() && answer.is_stream(), u16::MAX - weight, place)
        };
        weighed.min_by_key(key).map(|(answer, ..)| answer)
    }
}

impl Form {
    /// Reports whether the form carries many results.
    #[must_use]
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::EventStream | Self::Multipart)
    }

    /// Returns how well the range fits: the more specific, the greater.
    fn fit(self, range: &Range) -> Option<u8> {
        let fits_charset = range.parameter("charset").is_none_or(is_utf8);
        match (self, &*range.essence) {
            (Self::GraphqlResponseJson, "application/graphql-response+json")
            | (Self::Json, "application/json")
            | (Self::EventStream, "text/event-stream")
                if fits_charset =>
            {
                Some(3)
            }
            (Self::Multipart, "multipart/mixed") => {
                (range.parameter("subscriptionspec") == Some("1.0")).then_some(3)
            }
            (Self::GraphqlResponseJson | Self::Json, "application/*") => Some(2),
            (Self::GraphqlResponseJson | Self::Json, "*/*") => Some(1),
            _ => None,
        }
    }
}

fn most_specific(ranges: &[Range], answer: Form) -> Option<(usize, &Range)> {
    let fits =
        ranges.iter().enumerate().filter_map(|(place, range)| Some((answer.fit(range)?, place, range)));
    fits.reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, place, range)| (place, range))
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = split(text, ';');
        let essence = parts.next()?.to_ascii_lowercase();
        let mut range = Self { essence, parameters: Vec::new(), weight: 1_000 };
        for part in parts {
            let (name, value) = part.split_once('=')?;
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"'));
            match &*name {
                "q" => range.weight = weight(value)?,
                _ => range.parameters.push((name, value.to_owned())),
            }
        }
        range.essence.contains('/').then_some(range)
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(other, _)| other == name).map(|(_, value)| &**value)
    }
}

/// Parses a weight from `0` to `1` with at most three decimals. Returns thousandths.
fn weight(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let decimals = format!("{decimals:0<3}");
    match (whole, decimals.parse(), decimals.len()) {
        ("1", Ok(0), 3) => Some(1_000),
        ("0", Ok(thousandths), 3) => Some(thousandths),
        _ => None,
    }
}

/// Returns the trimmed, non-empty parts between separators that stand outside of quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    let parts = text.split(move |character| {
        is_quoted ^= character == '"';
        character == separator && !is_quoted
    });
    parts.map(str::trim).filter(|part| !part.is_empty())
}

/// Reports whether the headers announce a body of JSON in UTF-8. A body without a media type is
/// refused, since browsers send those across sites without a preflight.
#[must_use]
pub fn is_json(headers: &HeaderMap) -> bool {
    let header = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let range = header(CONTENT_TYPE).and_then(Range::parse);
    range.is_some_and(|range| {
        matches!(&*range.essence, "application/json" | "application/graphql+json")
            && range.parameter("charset").is_none_or(is_utf8)
    })
}

fn is_utf8(charset: &str) -> bool {
    charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("utf8")
}

#[cfg(test)]
mod tests {
    use super::{Form::*, *};

    fn accept(values: &[&str]) -> Accept {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, value.parse().unwrap());
        }
        Accept::read(&headers)
    }

    #[test]
    fn one_result_has_form_that_client_prefers() {
        for (text, answer) in [
            ("*/*", Some(Json)),
            ("application/*", Some(Json)),
            ("application/json", Some(Json)),
            ("APPLICATION/JSON ; charset=\"UTF-8\"", Some(Json)),
            ("application/graphql-response+json", Some(GraphqlResponseJson)),
            ("application/graphql-response+json, application/json", Some(GraphqlResponseJson)),
            ("application/json, application/graphql-response+json", Some(Json)),
            ("application/json;q=0.9, application/graphql-response+json;q=0.91", Some(GraphqlResponseJson)),
            ("*/*;q=0.1, application/graphql-response+json;q=0.05", Some(Json)),
            ("application/json;q=0, */*", Some(GraphqlResponseJson)),
            ("text/html, */*;q=0.8", Some(Json)),
            ("text/event-stream, application/json;q=0.1", Some(Json)),
            ("text/event-stream", Some(EventStream)),
            ("multipart/mixed;subscriptionSpec=1.0", Some(Multipart)),
            ("multipart/mixed;deferSpec=20220824, application/json", Some(Json)),
            ("application/json; charset=iso-8859-1", None),
            ("application/json;q=1.1", None),
            ("application/json;q=0.0001", None),
            ("text/html", None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(accept(&[text]).result(), answer, "{text}");
        }
        assert_eq!(accept(&[]).result(), Some(Json));
        assert_eq!(
            accept(&["text/html", "application/graphql-response+json"]).result(),
            Some(GraphqlResponseJson)
        );
    }

    #[test]
    fn many_results_need_stream_that_client_names() {
        for (text, answer) in [
            ("*/*", None),
            ("application/json", None),
            ("text/event-stream;q=0", None),
            ("multipart/mixed", None),
            ("text/event-stream", Some(EventStream)),
            ("application/json, text/event-stream;q=0.1", Some(EventStream)),
            (r#"multipart/mixed;boundary="a,b;c";subscriptionSpec="1.0", application/json"#, Some(Multipart)),
            ("multipart/mixed;subscriptionSpec=1.0, text/event-stream", Some(Multipart)),
            ("multipart/mixed;subscriptionSpec=1.0;q=0.5, text/event-stream", Some(EventStream)),
        ] {
            assert_eq!(accept(&[text]).stream(), answer, "{text}");
        }
        assert_eq!(accept(&[]).stream(), None);
    }

    #[test]
    fn body_must_be_json_in_utf_8() {
        for (text, is) in [
            ("application/json", true),
            ("application/json; charset=utf-8", true),
            ("Application/GraphQL+JSON;charset=UTF8", true),
            ("application/json; charset=utf-16", false),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("multipart/form-data; boundary=x", false),
            ("application/jsonp", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, text.parse().unwrap());
            assert_eq!(is_json(&headers), is, "{text}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
