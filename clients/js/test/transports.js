// One way to watch for each client that the package supports: all take the same arguments.

import { ApolloClient, InMemoryCache, gql } from '@apollo/client/core/index.js';
import { Client } from '@urql/core';
import { EventSource } from 'eventsource';
import relayRuntime from 'relay-runtime';
import WebSocket from 'ws';

import { relayLink } from 'pubsub-relay-client/apollo';
import { watch } from 'pubsub-relay-client/eventsource';
import { createRelaySseClient } from 'pubsub-relay-client/graphql-sse';
import { createRelayClient } from 'pubsub-relay-client/graphql-ws';
import { relaySubscribe } from 'pubsub-relay-client/relay';
import { relayExchange } from 'pubsub-relay-client/urql';

export const query = 'subscription Watch { templateAdded { name } }';
const request = { query };

const socket = ({ url, ...options }) =>
  createRelayClient({ ...options, url: url.replace('http', 'ws'), webSocketImpl: WebSocket });
const sink = ({ onName, onError }) => ({
  next: ({ data, errors }) => (errors ? onError(errors) : onName(data.templateAdded.name)),
  error: onError,
  complete() {},
});

/** Each starts to watch, calls `onName`, `onGap` and `onError`, and returns the function that ends it. */
export const transports = {
  'graphql-ws'(options) {
    const client = socket(options);
    client.subscribe(request, sink(options));
    return () => client.dispose();
  },
  iterate(options) {
    const client = socket(options);
    const results = client.iterate(request);
    (async () => {
      for await (const { data } of results) options.onName(data.templateAdded.name);
    })().catch(options.onError);
    return () => client.dispose();
  },
  apollo(options) {
    const client = socket(options);
    const apollo = new ApolloClient({ link: relayLink(client), cache: new InMemoryCache() });
    const subscription = apollo.subscribe({ query: gql(query) }).subscribe({
      next: ({ data, error }) => (error ? options.onError(error) : options.onName(data.templateAdded.name)),
      error: options.onError,
    });
    return () => [subscription.unsubscribe(), client.dispose()];
  },
  urql(options) {
    const client = socket(options);
    const urql = new Client({ url: options.url, exchanges: [relayExchange(client)] });
    const { unsubscribe } = urql.subscription(query, {}).subscribe(({ data, error }) => {
      if (error) options.onError(error);
      else options.onName(data.templateAdded.name);
    });
    return () => [unsubscribe(), client.dispose()];
  },
  relay(options) {
    const client = socket(options);
    const observable = relaySubscribe(client)({ text: query, name: 'Watch' }, {});
    const subscription = relayRuntime.Observable.from(observable).subscribe(sink(options));
    return () => [subscription.unsubscribe(), client.dispose()];
  },
  'graphql-sse'(options) {
    const client = createRelaySseClient(options);
    client.subscribe(request, sink(options));
    return () => client.dispose();
  },
  eventsource: (options) => watch({ ...options, EventSource }, request, sink(options)),
};
