import { ApolloClient, InMemoryCache, gql } from '@apollo/client/core';
import { CombinedGraphQLErrors } from '@apollo/client/errors';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

import { story } from './story.js';

// The link needs the browser's global WebSocket.
globalThis.WebSocket ??= WebSocket;

story('@apollo/client over WebSocket', (http, headers) => {
  let close;
  const socket = createClient({
    url: `${http.replace('http', 'ws')}/graphql`,
    webSocketImpl: WebSocket,
    connectionParams: headers,
    on: { closed: (event) => (close = event) },
  });
  const client = new ApolloClient({ link: new GraphQLWsLink(socket), cache: new InMemoryCache() });
  return {
    subscribe: (query, sink) => {
      const next = ({ data, error }) =>
        error ? sink.error(CombinedGraphQLErrors.is(error) ? error.errors : error) : sink.next({ data });
      const subscription = client.subscribe({ query: gql(query) }).subscribe({ ...sink, next });
      return () => subscription.unsubscribe();
    },
    close: async () => {
      client.stop();
      await socket.dispose();
    },
    refused: () => close?.code === 4403,
  };
});
