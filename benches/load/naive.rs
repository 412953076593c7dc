//! Naive relay: axum, async-graphql's own WebSocket, and a broadcast channel.
//!
//! The relay's mutations are compared with it. It uses its libraries' best known setting, a small
//! read buffer. It checks no token, and every watcher filters every event itself. It must never be
//! tuned beyond what its libraries' documentation shows.

use std::net::SocketAddr;

use anyhow::Context as _;
use async_graphql::{
    Context, ID, InputObject, Object, Schema, SimpleObject, Subscription, http::ALL_WEBSOCKET_PROTOCOLS,
};
use async_graphql_axum::{GraphQLProtocol, GraphQLRequest, GraphQLResponse, GraphQLWebSocket};
use axum::{
    Router,
    extract::{State, WebSocketUpgrade},
    response::Response,
    routing::get,
    serve::ListenerExt as _,
};
use futures_util::{Stream, stream};
use tokio::{net::TcpListener, sync::broadcast};

/// Number of templates that a slow watcher may lag behind; beyond it, its subscription ends.
const LAG: usize = 4_096;

#[derive(Clone, SimpleObject)]
struct Template {
    id: ID,
    name: String,
    share_location_ids: Vec<ID>,
}

#[derive(InputObject)]
struct AddTemplateInput {
    name: String,
    share_location_ids: Vec<ID>,
}

#[derive(SimpleObject)]
struct CommonResponse {
    success: bool,
}

struct Query;

#[Object]
impl Query {
    async fn nothing(&self) -> bool {
        true
    }
}

struct Mutation;

#[Object]
impl Mutation {
    async fn add_template(&self, ctx: &Context<'_>, template_input: AddTemplateInput) -> CommonResponse {
        let AddTemplateInput { name, share_location_ids } = template_input;
        let template = Template { id: uuid::Uuid::now_v7().into(), name, share_location_ids };
        // an error means that there is no watcher
        let _ = ctx.data_unchecked::<broadcast::Sender<Template>>().send(template);
        CommonResponse { success: true }
    }
}

struct Subscriptions;

#[Subscription(name = "Subscription")]
impl Subscriptions {
    async fn template_added(&self, ctx: &Context<'_>) -> impl Stream<Item = Template> {
        let templates = ctx.data_unchecked::<broadcast::Sender<Template>>().subscribe();
        stream::unfold(templates, |mut templates| async {
            loop {
                match templates.recv().await {
                    Ok(template) if template.share_location_ids.is_empty() => {}
                    Ok(template) => return Some((template, templates)),
                    Err(_lagged) => return None,
                }
            }
        })
    }
}

type Api = Schema<Query, Mutation, Subscriptions>;

async fn mutate(State(api): State<Api>, request: GraphQLRequest) -> GraphQLResponse {
    api.execute(request.into_inner()).await.into()
}

async fn watch(State(api): State<Api>, protocol: GraphQLProtocol, upgrade: WebSocketUpgrade) -> Response {
    upgrade
        .protocols(ALL_WEBSOCKET_PROTOCOLS)
        .read_buffer_size(4 << 10)
        .on_upgrade(move |socket| GraphQLWebSocket::new(socket, api, protocol).serve())
}

/// Serves until the process is killed.
pub(crate) fn run(listen: SocketAddr) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        let listener = listener.tap_io(|socket| {
            // if this fails, the server is only slower
            let _ = socket.set_nodelay(true);
        });
        let api = Schema::build(Query, Mutation, Subscriptions)
            .data(broadcast::channel::<Template>(LAG).0)
            .finish();
        let routes = Router::new().route("/graphql", get(watch).post(mutate));
        let routes = routes.route("/readyz", get(|| async {}));
        Ok(axum::serve(listener, routes.with_state(api)).await?)
    })
}
