import { ApolloClient, InMemoryCache, gql } from '@apollo/client/core';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { createClient } from 'graphql-ws';

import { persistent, resuming } from './resuming.js';

const query = gql('subscription Watch($after: String) { templateAdded(after: $after) { id name } }');

export function watch({ url, token, onTemplate, onGap, ...options }) {
  const connectionParams = async () => ({ token: `Bearer ${await token()}` });
  const socket = createClient({ url, connectionParams, ...persistent, ...options });
  const client = new ApolloClient({ link: new GraphQLWsLink(resuming(socket, onGap)), cache: new InMemoryCache() });
  const next = ({ data, error }) => (error ? console.error(error) : onTemplate(data.templateAdded));
  const subscription = client.subscribe({ query }).subscribe({ next });
  return () => subscription.unsubscribe();
}
