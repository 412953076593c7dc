import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

import { story } from './story.js';

story('graphql-ws', (http, headers) => {
  let close;
  const client = createClient({
    url: `${http.replace('http', 'ws')}/graphql`,
    webSocketImpl: WebSocket,
    connectionParams: headers,
    on: { closed: (event) => (close = event) },
  });
  return {
    subscribe: (query, sink) => client.subscribe({ query }, sink),
    close: () => client.dispose(),
    // The library retries a refusal as a token may have expired: 4403 is what it is told.
    refused: () => close?.code === 4403,
  };
});
