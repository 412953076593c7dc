import { setTimeout as sleep } from 'node:timers/promises';

import { createClient } from 'graphql-sse';

import { story } from './story.js';

for (const singleConnection of [false, true]) {
  const mode = singleConnection ? 'single connection mode' : 'distinct connections mode';
  story(`graphql-sse, ${mode}`, (http, headers) => {
    let refusal;
    const client = createClient({
      url: `${http}/graphql`,
      // A copy, because the client adds headers to this object.
      headers: () => ({ ...headers }),
      singleConnection,
      // The client retries after every status and reports only the status. The body has the errors.
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
