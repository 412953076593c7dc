//! [`refusal`]: asks the service why a stream brings nothing.
//!
//! Google's client hides a refused stream, such as one beyond a quota, and retries it for ever. So
//! this opens one of its own. It must never open one on a feed that is still read, since it would
//! take its messages.

use std::{future::pending, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use google_cloud_auth::credentials::CacheableResource;
use google_cloud_gax::error::rpc::Code;
use http::{Extensions, uri::PathAndQuery};
use tokio::time::timeout;
use tonic::{
    Request, Status,
    client::Grpc,
    metadata::MetadataMap,
    transport::{ClientTlsConfig, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{
    cause::Cause,
    settings::{Access, Settings},
};

/// Longest time to wait for a refusal. A stream that is accepted answers only when a message comes.
const PATIENCE: Duration = Duration::from_secs(3);

/// The fields of Google's request that a stream needs.
#[derive(Clone, PartialEq, prost::Message)]
struct StreamingPullRequest {
    #[prost(string, tag = "1")]
    subscription: String,
    #[prost(int32, tag = "5")]
    stream_ack_deadline_seconds: i32,
}

/// Answer of a stream, of which only the arrival counts.
#[derive(Clone, PartialEq, prost::Message)]
struct Anything {}

/// Returns why the service refuses a stream of this feed; `None` if it does not within
/// [`PATIENCE`].
pub(super) async fn refusal(settings: &Settings, access: &Access, feed: &str) -> Option<Cause> {
    let status = timeout(PATIENCE, open(settings, access, feed)).await.ok()?.err()?;
    if status.code() == tonic::Code::NotFound {
        return None;
    }
    Some(match status.code() {
        tonic::Code::Unknown => Cause::unconnected(settings, status.message()),
        code => Cause::refused("receive", Code::from(code as i32), status.message()),
    })
}

/// Opens a stream, and returns once it is accepted or refused.
async fn open(settings: &Settings, access: &Access, feed: &str) -> Result<(), Status> {
    let unconnected = |error: tonic::transport::Error| {
        let causes = std::iter::successors(std::error::Error::source(&error), |&cause| cause.source());
        Status::unknown(causes.last().map_or_else(|| error.to_string(), ToString::to_string))
    };
    let url = settings.endpoint_url();
    let mut endpoint = Endpoint::from_shared(url.clone()).map_err(unconnected)?;
    if url.starts_with("https:") {
        let tls = ClientTlsConfig::new().with_enabled_roots();
        endpoint = endpoint.tls_config(tls).map_err(unconnected)?;
    }
    let mut client = Grpc::new(endpoint.connect().await.map_err(unconnected)?);
    client.ready().await.map_err(unconnected)?;
    let subscription = feed.to_owned();
    let first = StreamingPullRequest { subscription, stream_ack_deadline_seconds: 10 };
    // The stream stays open from our side.
    let requests = stream::once(async { first }).chain(pending().into_stream());
    let mut request = Request::new(requests);
    if let Ok(CacheableResource::New { data, .. }) = access.credentials.headers(Extensions::new()).await {
        *request.metadata_mut() = MetadataMap::from_headers(data);
    }
    if let Ok(parameters) = format!("subscription={feed}").parse() {
        request.metadata_mut().insert("x-goog-request-params", parameters);
    }
    let path = PathAndQuery::from_static("/google.pubsub.v1.Subscriber/StreamingPull");
    let codec = ProstCodec::<StreamingPullRequest, Anything>::default();
    client.streaming(request, path, codec).await.map(drop)
}
