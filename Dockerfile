# The image of one pod: dependencies (their own layer) → build → distroless, without a shell, as an
# unprivileged user.
#
#   docker build --tag relay .
#
# Build and runtime both use Debian 13, so the binary finds the libc that it was linked with.
# Digests pin the base images; tags are for readers. There is no `# syntax=` line, because the
# frontend inside the engine (20.10 and later) is enough.

FROM rust:1.98-trixie@sha256:a8a5f0a1e5fe7dfe1d352591e4a1c7dd2c08fd70475cae872cf3458ba0df0546 AS dependencies
# build.rs bundles the page at / with npm. Without npm the build works, too, but with a plain page.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends nodejs npm \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
# An empty crate with the relay's dependencies. This layer is built anew only when Cargo.lock
# changes. Even then the cache mount saves the download, and it keeps the registry out of the layer.
# Cargo refuses a manifest if a bench is missing, so the empty bench files stay.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    mkdir -p src/bin/relay benches/load && echo "fn main() {}" >src/bin/relay/main.rs && touch src/lib.rs \
    && cp src/bin/relay/main.rs benches/relay.rs && cp src/bin/relay/main.rs benches/load/main.rs \
    && cargo build --release --locked --bin relay \
    && rm -r src

FROM dependencies AS build
COPY build.rs build.rs
COPY page page
COPY clients/js/src clients/js/src
COPY src src
# The copied files may be older than those of the empty crate, and cargo compares times.
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
# A number, because `runAsNonRoot` cannot check a name. It is the user `nonroot` of the base image.
USER 65532:65532
# Loopback cannot be reached from outside the container.
ENV RELAY_LISTEN=[::]:8080 \
    RELAY_ADMIN_LISTEN=[::]:9090
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
# For engines without their own probes. Kubernetes ignores it. It checks that the pod is alive, not
# that it is ready: a pod that misses the topic for a moment must not be restarted.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["relay", "healthcheck"]
ENTRYPOINT ["relay"]
