// A user's subscription at a pod, by a stock client that does not connect again.

import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

/**
 * Subscribes as a user at a pod, and waits until the pod has the watcher. The client has the results in `results`, and
 * in `cursor` that of its connection's start.
 */
export async function watch(pod, user, query = 'subscription { templateAdded { id name } }') {
  const before = await pod.metric('relay_watchers');
  const client = createClient({
    url: `ws://127.0.0.1:${pod.port}/graphql`,
    webSocketImpl: WebSocket,
    connectionParams: { Authorization: `Bearer ${user}` },
    retryAttempts: 0,
    on: { connected: (_, payload) => (client.cursor = payload?.cursor) },
  });
  client.results = [];
  client.subscribe({ query }, { next: (result) => client.results.push(result), error() {}, complete() {} });
  await pod.untilWatchers(before + 1);
  return client;
}
