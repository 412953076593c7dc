// How GraphiQL reaches the pod: queries and mutations over HTTP, subscriptions over a WebSocket. Both show the token that stands
// in the headers editor; it goes nowhere else.

import { getOperationAST, parse } from 'graphql';
import { createClient } from 'graphql-ws';

/** The pod refuses the token: asking again with the same one changes nothing. */
const FORBIDDEN = 4403;

/** A GraphiQL fetcher for the GraphQL endpoint at this URL. */
export function fetcherOf(url) {
  return ({ operationName, ...request }, { headers = {} } = {}) => {
    const operation = chosen(request.query, operationName);
    const named = { ...request, operationName: operation?.name?.value };
    return operation?.operation === 'subscription' ? watch(url, named, headers) : ask(url, named, headers);
  };
}

/**
 * The operation to run; undefined if only the pod can say what is wrong. GraphiQL reads a document a moment after it has changed, so
 * that just after a change of tabs it still names the other tab's.
 */
function chosen(query, name) {
  try {
    const document = parse(query);
    return getOperationAST(document, name) ?? getOperationAST(document);
  } catch {
    return undefined;
  }
}

async function ask(url, request, headers) {
  const response = await fetch(url, {
    method: 'POST',
    headers: { accept: 'application/graphql-response+json', 'content-type': 'application/json', ...headers },
    body: JSON.stringify(request),
  });
  return response.json();
}

function watch(url, request, headers) {
  return {
    subscribe(sink) {
      const client = createClient({
        url: url.replace(/^http/, 'ws'),
        connectionParams: headers,
        // A pod that drains sends its watchers to another.
        retryAttempts: Infinity,
        shouldRetry: (cause) => cause instanceof CloseEvent && cause.code !== FORBIDDEN,
      });
      client.subscribe(request, { ...sink, error: (cause) => sink.error(readable(cause)) });
      return { unsubscribe: () => client.dispose() };
    },
  };
}

/** GraphiQL shows errors and plain values; a CloseEvent is neither. */
function readable(cause) {
  return cause instanceof CloseEvent ? new Error(`the pod ended the connection: ${cause.code} ${cause.reason}`) : cause;
}
