// Hive Gateway's settings: each subgraph is asked with the client's own token, over HTTP for
// queries and mutations and over WebSocket for subscriptions.

import { defineConfig } from '@graphql-hive/gateway';

export const gatewayConfig = defineConfig({
  supergraph: process.env.SUPERGRAPH,
  propagateHeaders: {
    fromClientToSubgraphs: ({ request, context }) => ({
      authorization: request?.headers.get('authorization') ?? context?.connectionParams?.authorization,
    }),
  },
  transportEntries: {
    '*.http': {
      options: {
        subscriptions: {
          kind: 'ws',
          location: '/graphql',
          options: { connectionParams: { authorization: '{context.connectionParams.authorization}' } },
        },
      },
    },
  },
});
