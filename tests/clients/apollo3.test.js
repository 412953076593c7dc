// Apollo Client 3, which many pages still have: over WebSocket and over multipart.

import { createRequire } from 'node:module';

import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

import { story } from './story.js';

// Its ES modules name no files, so Node can load its CommonJS only.
const require = createRequire(import.meta.url);
const { ApolloClient, ApolloLink, HttpLink, InMemoryCache, gql } = require('@apollo/client3/core');
const { GraphQLWsLink } = require('@apollo/client3/link/subscriptions');
const { RetryLink } = require('@apollo/client3/link/retry');

// The link needs the browser's global WebSocket.
globalThis.WebSocket ??= WebSocket;

/** Starts a subscription, with errors as a list. */
function subscribe(client, query, sink) {
  const error = (error) => sink.error(error.graphQLErrors?.length ? error.graphQLErrors : error);
  const subscription = client.subscribe({ query: gql(query) }).subscribe({ ...sink, error });
  return () => subscription.unsubscribe();
}

story('@apollo/client 3 over WebSocket', (http, headers) => {
  let close;
  const socket = createClient({
    url: `${http.replace('http', 'ws')}/graphql`,
    webSocketImpl: WebSocket,
    connectionParams: headers,
    on: { closed: (event) => (close = event) },
  });
  const client = new ApolloClient({ link: new GraphQLWsLink(socket), cache: new InMemoryCache() });
  return {
    subscribe: (query, sink) => subscribe(client, query, sink),
    close: async () => {
      client.stop();
      await socket.dispose();
    },
    refused: () => close?.code === 4403,
  };
});

story('@apollo/client 3 over multipart', (http, headers) => {
  const retry = new RetryLink({
    delay: { initial: 100, max: 1_000 },
    attempts: { max: Infinity, retryIf: (error) => !error.statusCode },
  });
  const link = ApolloLink.from([retry, new HttpLink({ uri: `${http}/graphql`, headers })]);
  const client = new ApolloClient({ link, cache: new InMemoryCache() });
  return {
    subscribe: (query, sink) => subscribe(client, query, sink),
    close: () => client.stop(),
  };
});
