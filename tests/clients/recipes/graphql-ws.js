import { createClient } from 'graphql-ws';

import { persistent, resuming } from './resuming.js';

const query = 'subscription Watch($after: String) { templateAdded(after: $after) { id name } }';

export function watch({ url, token, onTemplate, onGap, ...options }) {
  const connectionParams = async () => ({ token: `Bearer ${await token()}` });
  const client = createClient({ url, connectionParams, ...persistent, ...options });
  const next = ({ data, errors }) => (errors ? console.error(errors) : onTemplate(data.templateAdded));
  return resuming(client, onGap).subscribe({ query }, { next, error: console.error, complete() {} });
}
