import { subscriptionExchange } from '@urql/core';

import type { RelayClient } from './graphql-ws.js';

/** Returns the exchange of urql for subscriptions. A gap is reported by the client's `onGap`. */
export function relayExchange(client: RelayClient): ReturnType<typeof subscriptionExchange> {
  return subscriptionExchange({
    forwardSubscription: ({ query, variables }) => ({
      subscribe: (sink) => ({
        unsubscribe: client.subscribe({ query: query!, variables: variables as Record<string, unknown> }, sink as never),
      }),
    }),
  });
}
