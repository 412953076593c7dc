import { EventSource } from 'eventsource';

import { story } from './story.js';

story('eventsource', (http, headers) => {
  const sources = [];
  return {
    subscribe: (query, sink) => {
      const source = new EventSource(`${http}/graphql?query=${encodeURIComponent(query)}`, {
        // Tokens do not belong into URLs, and a browser's own EventSource has no other place for them.
        fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, ...headers } }),
      });
      sources.push(source);
      source.addEventListener('next', (event) => sink.next(JSON.parse(event.data)));
      source.addEventListener('complete', () => {
        // Or it would ask again.
        source.close();
        sink.complete();
      });
      // It comes back by itself, with the id of its last event, unless it was refused.
      source.addEventListener('error', (event) => event.code && sink.error(event));
      return () => source.close();
    },
    close: () => sources.forEach((source) => source.close()),
  };
});
