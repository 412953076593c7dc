// The pods of a cluster, as the page reaches them: watchers, requests, and the buttons' routes.
//
// Each watcher is the client of `clients/js`, as applications use it. Nothing here may reach
// another server than the pods that the page was told of.

import { createRelayClient } from 'pubsub-relay-client/graphql-ws';

/** Pause before a client connects again, in ms. A pod of a cluster is back after a second. */
const RETRY = 300;

export const sleep = (time) => new Promise((done) => setTimeout(done, time));

/** Watches a pod as a user. `on` gets `state`, `result`, `gap` and `error`. Returns what ends it. */
export function watch(pod, token, query, on) {
  const client = createRelayClient({
    url: `${pod.url.replace(/^http/, 'ws')}/graphql`,
    token: () => token,
    onState: on.state,
    onGap: on.gap,
    retryWait: () => sleep(RETRY),
  });
  client.subscribe({ query }, { next: on.result, error: on.error, complete() {} });
  return () => client.dispose();
}

/** Runs a query or a mutation on a pod as a user. Returns its data, or throws an error for people. */
export async function run(pod, token, query, variables) {
  let answer;
  try {
    const response = await fetch(`${pod.url}/graphql`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
      body: JSON.stringify({ query, variables }),
    });
    answer = await response.json();
  } catch {
    throw new Error(`${pod.name} does not answer.`);
  }
  if (answer.errors) throw new Error(`${pod.name} refuses: ${answer.errors.map(({ message }) => message).join('; ')}`);
  return answer.data;
}

/** Asks the process that runs the pods. Throws an error for people. */
export async function ask(what) {
  const url = new URL(`cluster/${what}`, document.baseURI);
  const response = await fetch(url, { method: 'POST' }).catch(() => {
    throw new Error(`${url.host}, the pod of this page, does not answer. Try again in a moment.`);
  });
  if (!response.ok) throw new Error((await response.text()).trim());
}
