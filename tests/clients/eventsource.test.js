import { EventSource } from 'eventsource';

import { story } from './story.js';

story('eventsource', (http, headers) => {
  const sources = [];
  return {
    subscribe: (query, sink) => {
      const source = new EventSource(`${http}/graphql?query=${encodeURIComponent(query)}`, {
        // A token does not belong in a URL, and a browser's own EventSource cannot send one
        // elsewhere.
        fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, ...headers } }),
      });
      sources.push(source);
      source.addEventListener('next', (event) => sink.next(JSON.parse(event.data)));
      source.addEventListener('complete', () => {
        // Otherwise it would reconnect.
        source.close();
        sink.complete();
      });
      // It reconnects by itself with the id of its last event, unless the pod refused it.
      source.addEventListener('error', (event) => event.code && sink.error(event));
      return () => source.close();
    },
    close: () => sources.forEach((source) => source.close()),
  };
});
