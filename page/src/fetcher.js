// Connects GraphiQL with the pod: queries and mutations over HTTP, subscriptions over a WebSocket.
// Both send the token of the headers editor. The token must never go anywhere else.

import { getOperationAST, parse } from 'graphql';
import { createRelayClient } from 'pubsub-relay-client/graphql-ws';

import { nameOf } from './token.js';

/**
 * Returns a GraphiQL fetcher for the GraphQL endpoint at this URL. Each result is listed in the log,
 * but for those that GraphiQL asks for by itself.
 */
export function fetcherOf(url, log) {
  return ({ operationName, ...request }, { headers = {} } = {}) => {
    const operation = chosen(request.query, operationName);
    const name = operation?.name?.value;
    const run = { url, request: { ...request, operationName: name }, headers, log };
    if (operation?.operation === 'subscription') return watch({ ...run, of: name ?? 'subscription' });
    return ask({
      ...run,
      of: operationName === 'IntrospectionQuery' ? undefined : (name ?? operation?.operation ?? 'request'),
    });
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

async function ask({ url, request, headers, log, of }) {
  const response = await fetch(url, {
    method: 'POST',
    headers: { accept: 'application/graphql-response+json', 'content-type': 'application/json', ...headers },
    body: JSON.stringify(request),
  });
  const answer = await response.json();
  if (of) log.add(of, answer);
  return answer;
}

/** Runs a subscription. After a cut it goes on where it was, on any pod. */
function watch({ url, request, headers, log, of }) {
  const token = Object.entries(headers).find(([name]) => name.toLowerCase() === 'authorization')?.[1];
  return {
    subscribe(sink) {
      let isOver = false;
      const end = (connection) => {
        if (isOver) return;
        isOver = true;
        log.set({ connection, cancel: undefined });
        client.dispose();
      };
      const client = createRelayClient({
        url: url.replace(/^http/, 'ws'),
        // The client adds the scheme, which the headers editor has already.
        ...(token && { token: () => token.replace(/^bearer +/i, '') }),
        onState: (connection) => isOver || log.set({ connection }),
      });
      log.set({ user: nameOf(token), connection: 'connecting', cancel: () => [end('cancelled'), sink.complete()] });
      client.subscribe(request, {
        next: (result) => [log.add(of, result), sink.next(result)],
        error: (error) => [end('ended'), sink.error(readable(error))],
        complete: () => [end('ended'), sink.complete()],
      });
      return { unsubscribe: () => end('cancelled') };
    },
  };
}

/** Returns what GraphiQL shows: the text with the close code, since an error of ours has a cause. */
function readable(error) {
  const { code, reason } = error.cause ?? {};
  return reason ? new Error(`the pod ended the connection: ${code} ${reason}`) : error;
}
