import { Client, fetchExchange, subscriptionExchange } from '@urql/core';
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

import { story } from './story.js';

story('urql', (http, headers) => {
  let close;
  const socket = createClient({
    url: `${http.replace('http', 'ws')}/graphql`,
    webSocketImpl: WebSocket,
    connectionParams: headers,
    on: { closed: (event) => (close = event) },
  });
  const forwardSubscription = ({ query, variables }) => ({
    subscribe: (sink) => ({ unsubscribe: socket.subscribe({ query, variables }, sink) }),
  });
  const client = new Client({
    url: `${http}/graphql`,
    exchanges: [fetchExchange, subscriptionExchange({ forwardSubscription })],
  });
  return {
    subscribe: (query, sink) => {
      const next = ({ data, error }) => (error ? sink.error(error.graphQLErrors) : sink.next({ data }));
      const subscription = client.subscription(query, {}).subscribe(next);
      return () => subscription.unsubscribe();
    },
    close: () => socket.dispose(),
    refused: () => close?.code === 4403,
  };
});
