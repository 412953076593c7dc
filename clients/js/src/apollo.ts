import { GraphQLWsLink } from '@apollo/client/link/subscriptions';

import type { RelayClient } from './graphql-ws.js';

/** Returns the link of Apollo Client for subscriptions. A gap is reported by the client's `onGap`. */
export function relayLink(client: RelayClient): GraphQLWsLink {
  return new GraphQLWsLink(client as never);
}
