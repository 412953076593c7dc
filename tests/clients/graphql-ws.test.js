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
    // The library retries a refusal, since a token may have expired. It shows only the code 4403.
    refused: () => close?.code === 4403,
  };
});
