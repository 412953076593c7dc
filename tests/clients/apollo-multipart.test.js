import { ApolloClient, ApolloLink, HttpLink, InMemoryCache, gql } from '@apollo/client/core';
import { CombinedGraphQLErrors, ServerError } from '@apollo/client/errors';
import { RetryLink } from '@apollo/client/link/retry';

import { story } from './story.js';

story('@apollo/client over multipart', (http, headers) => {
  // The link does not reconnect by itself. It reports a cut body as an error, and this link retries
  // it.
  const retry = new RetryLink({
    delay: { initial: 100, max: 1_000 },
    attempts: { max: Infinity, retryIf: (error) => !ServerError.is(error) },
  });
  const link = ApolloLink.from([retry, new HttpLink({ uri: `${http}/graphql`, headers })]);
  const client = new ApolloClient({ link, cache: new InMemoryCache() });
  return {
    subscribe: (query, sink) => {
      const next = ({ data, error }) =>
        error ? sink.error(CombinedGraphQLErrors.is(error) ? error.errors : error) : sink.next({ data });
      const subscription = client.subscribe({ query: gql(query) }).subscribe({ ...sink, next });
      return () => subscription.unsubscribe();
    },
    close: () => client.stop(),
  };
});
