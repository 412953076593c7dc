import { setTimeout as sleep } from 'node:timers/promises';

import { createClient } from 'graphql-sse';

import { story } from './story.js';

for (const singleConnection of [false, true]) {
  const mode = singleConnection ? 'single connection mode' : 'distinct connections mode';
  story(`graphql-sse, ${mode}`, (http, headers) => {
    let refusal;
    const client = createClient({
      url: `${http}/graphql`,
      // The client adds to what it is given.
      headers: () => ({ ...headers }),
      singleConnection,
      // It tries again whatever the status, and tells a status only. The errors are in the body.
      fetchFn: async (url, init) => {
        const response = await fetch(url, init);
        if (response.status >= 400 && response.status < 500) refusal = new Error(await response.clone().text());
        return response;
      },
      retryAttempts: 50,
      retry: async () => {
        if (refusal) throw refusal;
        await sleep(100);
      },
    });
    return {
      subscribe: (query, sink) => client.subscribe({ query }, sink),
      close: () => client.dispose(),
    };
  });
}
