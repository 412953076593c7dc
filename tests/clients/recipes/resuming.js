/** How long a connection may be silent, in ms, before it counts as lost. A pod pings every 25 s. */
const PATIENCE = 40_000;

/** Options for `createClient`: the client reconnects for ever, but not with a refused token. */
export const persistent = {
  retryAttempts: Infinity,
  retryWait: (retries) => new Promise((done) => setTimeout(done, Math.random() * Math.min(2 ** retries, 10) * 1000)),
  // 4403 is a refused token, unless the token has expired or cannot be checked at the moment.
  shouldRetry: ({ code, reason }) => code !== 4403 || /^token expired$|at the moment/.test(reason),
};

/**
 * Makes the subscriptions of a graphql-ws client go on where they were, on any pod. Their documents
 * take `$after: String`.
 */
export function resuming(client, onGap) {
  let ack;
  let silence;
  const listen = () => {
    clearTimeout(silence);
    silence = setTimeout(() => client.terminate(), PATIENCE);
  };
  client.on('connecting', listen);
  client.on('message', listen);
  client.on('closed', () => clearTimeout(silence));
  client.on('connected', (_socket, payload) => (ack = payload?.cursor));
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
      const extensions = result.extensions ?? {};
      const { eventId, gap } = extensions;
      cursor = extensions.cursor ?? cursor;
      if (gap) return onGap(gap);
      if (eventId && seen.has(eventId)) return;
      seen.add(eventId);
      if (seen.size > 1000) seen.delete(seen.values().next().value);
      sink.next(result);
    };
    return client.subscribe({ ...operation, variables }, { ...sink, next });
  };
  // That of graphql-ws would call the `subscribe` of the inner client.
  const iterate = (operation) => {
    const waiting = [];
    let wake;
    const put = (entry) => [waiting.push(entry), wake?.()];
    const end = subscribe(operation, {
      next: (value) => put({ value, done: false }),
      error: (error) => put({ error }),
      complete: () => put({ done: true }),
    });
    return {
      [Symbol.asyncIterator]() {
        return this;
      },
      async next() {
        while (!waiting.length) await new Promise((resolve) => (wake = resolve));
        // The end stays, for each later call.
        const entry = waiting[0].done === false ? waiting.shift() : waiting[0];
        if (entry.error) throw entry.error;
        return entry;
      },
      async return() {
        end();
        put({ done: true });
        return { done: true };
      },
      async throw(error) {
        end();
        throw error;
      },
    };
  };
  return { ...client, subscribe, iterate };
}
