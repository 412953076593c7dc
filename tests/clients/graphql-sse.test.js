import { createClient } from 'graphql-sse';

import { story } from './story.js';

for (const singleConnection of [false, true]) {
  const mode = singleConnection ? 'single connection mode' : 'distinct connections mode';
  story(`graphql-sse, ${mode}`, (http, headers) => {
    const client = createClient({
      url: `${http}/graphql`,
      // The client adds to what it is given.
      headers: () => ({ ...headers }),
      singleConnection,
      // Its own pauses are of seconds; a refusal is worth no other try.
      retryAttempts: headers.authorization.endsWith('NOBODY') ? 0 : 50,
      retry: () => new Promise((resolve) => setTimeout(resolve, 100)),
      fetchFn: async (url, init) => {
        const response = await fetch(url, init);
        // The client tells a status only. The errors are in the body.
        if (response.status === 400) throw Object.assign(new Error(await response.text()), { fatal: true });
        return response;
      },
    });
    return {
      subscribe: (query, sink) => client.subscribe({ query }, sink),
      close: () => client.dispose(),
    };
  });
}
