/**
 * Makes the subscriptions of a graphql-ws client go on where they were, on any pod. Their documents
 * take `$after: String`.
 */
export function resuming(client, onGap) {
  let ack;
  client.on('connected', (_socket, payload) => (ack = payload.cursor));
  const subscribe = (operation, sink) => {
    const seen = new Set();
    let cursor = operation.variables?.after;
    const variables = Object.defineProperty({ ...operation.variables }, 'after', {
      enumerable: true,
      // Read at each reconnect. Before the first result, the place is where the first connection
      // began.
      get: () => [cursor, (cursor ??= ack)][0],
    });
    const next = (result) => {
      const { eventId, gap } = result.extensions;
      cursor = result.extensions.cursor;
      if (gap) return onGap(gap);
      if (seen.has(eventId)) return;
      seen.add(eventId);
      if (seen.size > 1000) seen.delete(seen.values().next().value);
      sink.next(result);
    };
    return client.subscribe({ ...operation, variables }, { ...sink, next });
  };
  return { ...client, subscribe };
}
