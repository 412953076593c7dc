import subscriptions from 'subscriptions-transport-ws';
import WebSocket from 'ws';

import { story } from './story.js';

story('subscriptions-transport-ws', (http, headers) => {
  let refused = false;
  const client = new subscriptions.SubscriptionClient(
    `${http.replace('http', 'ws')}/graphql`,
    { connectionParams: headers, reconnect: true, connectionCallback: (error) => (refused ||= Boolean(error)) },
    WebSocket,
  );
  return {
    subscribe: (query, sink) => {
      const subscription = client.request({ query }).subscribe(sink);
      return () => subscription.unsubscribe();
    },
    close: () => client.close(true),
    refused: () => refused,
  };
});
