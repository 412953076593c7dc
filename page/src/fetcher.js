// Connects GraphiQL with the pod: queries and mutations over HTTP, subscriptions over a WebSocket.
// Both send the token of the headers editor. The token must never go anywhere else.

import { getOperationAST, parse } from 'graphql';
import { createClient } from 'graphql-ws';

/** Close code of a refused token: another attempt with the same token changes nothing. */
const FORBIDDEN = 4403;

/** Returns a GraphiQL fetcher for the GraphQL endpoint at this URL. */
export function fetcherOf(url) {
  return ({ operationName, ...request }, { headers = {} } = {}) => {
    const operation = chosen(request.query, operationName);
    const named = { ...request, operationName: operation?.name?.value };
    return operation?.operation === 'subscription' ? watch(url, named, headers) : ask(url, named, headers);
  };
}

/**
 * Returns the operation to run, or undefined if only the pod can report what is wrong. GraphiQL
 * parses a document a moment after a change. Right after a change of tabs it therefore still passes
 * the operation name of the other tab.
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
        // A draining pod sends its watchers to another pod.
        retryAttempts: Infinity,
        shouldRetry: (cause) => cause instanceof CloseEvent && cause.code !== FORBIDDEN,
      });
      client.subscribe(request, { ...sink, error: (cause) => sink.error(readable(cause)) });
      return { unsubscribe: () => client.dispose() };
    },
  };
}

/** Turns a CloseEvent into an error, because GraphiQL shows only errors and plain values. */
function readable(cause) {
  return cause instanceof CloseEvent ? new Error(`the pod ended the connection: ${cause.code} ${cause.reason}`) : cause;
}
