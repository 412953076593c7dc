# The image of one pod: dependencies (a layer of their own) → build → distroless, without a shell, as nobody in particular.
#
#   docker build --tag relay .
#
# Debian 13 builds and Debian 13 runs, so that the binary meets the libc that it was linked against. Digests decide; tags are
# for people. There is no `# syntax=` line: the frontend inside the engine (20.10 and later) is enough.

FROM rust:1.98-trixie@sha256:a8a5f0a1e5fe7dfe1d352591e4a1c7dd2c08fd70475cae872cf3458ba0df0546 AS dependencies
# For the page at /, which build.rs bundles. Without npm the image would be built as well, and the page be a plain one.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends nodejs npm \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
# An empty crate with our dependencies: this layer is built anew only when Cargo.lock changes. The cache mount spares the
# download even then, and keeps the registry out of the layer. Cargo reads no manifest whose bench is not there, so that stays.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    mkdir -p src/bin/relay benches/load && echo "fn main() {}" | tee src/bin/relay/main.rs benches/relay.rs >benches/load/main.rs && touch src/lib.rs \
    && cargo build --release --locked --bin relay \
    && rm -r src

FROM dependencies AS build
COPY build.rs build.rs
COPY page page
COPY src src
# The times of the copied files may lie before those of the empty crate, and cargo goes by time.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/root/.npm \
    find src -type f -exec touch {} + \
    && cargo build --release --locked --bin relay

FROM gcr.io/distroless/cc-debian13:nonroot@sha256:54df941ed0d06a1bd95ef5e0ce391fd8d9f94b64782dc9a60062727849ee3f97
ARG VERSION=dev
ARG REVISION=unknown
ARG SOURCE=
LABEL org.opencontainers.image.title="pubsub-relay" \
      org.opencontainers.image.description="GraphQL subscriptions across many stateless pods, over one Google Cloud Pub/Sub topic" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
COPY --from=build /src/target/release/relay /usr/local/bin/relay
# A number, because `runAsNonRoot` cannot tell who a name is. It is the base image's `nonroot`.
USER 65532:65532
# Within a container, loopback would be heard by nobody.
ENV RELAY_LISTEN=0.0.0.0:8080 \
    RELAY_ADMIN_LISTEN=0.0.0.0:9090
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
# For engines without probes of their own; Kubernetes ignores it. Alive, not ready: a pod that cannot hear the topic for a
# moment should be left without new connections, not restarted.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["relay", "healthcheck"]
ENTRYPOINT ["relay"]
