import { Client, subscriptionExchange } from '@urql/core';
import { createClient } from 'graphql-ws';

import { persistent, resuming } from './resuming.js';

const query = 'subscription Watch($after: String) { templateAdded(after: $after) { id name } }';

export function watch({ url, token, onTemplate, onGap, ...options }) {
  const connectionParams = async () => ({ token: `Bearer ${await token()}` });
  const socket = createClient({ url, connectionParams, ...persistent, ...options });
  const { subscribe } = resuming(socket, onGap);
  const forwardSubscription = (operation) => ({ subscribe: (sink) => ({ unsubscribe: subscribe(operation, sink) }) });
  const client = new Client({ url, exchanges: [subscriptionExchange({ forwardSubscription })] });
  const next = ({ data, error }) => (error ? console.error(error) : onTemplate(data.templateAdded));
  return client.subscription(query, {}).subscribe(next).unsubscribe;
}
