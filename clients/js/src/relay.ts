import { Observable, type SubscribeFunction } from 'relay-runtime';

import type { RelayClient } from './graphql-ws.js';

/** Returns the second argument of Relay's `Network.create`. A gap is reported by the client's `onGap`. */
export function relaySubscribe(client: RelayClient): SubscribeFunction {
  return ({ text, name }, variables) =>
    Observable.create((sink) => client.subscribe({ query: text!, operationName: name, variables }, sink as never));
}
