import { EventSource } from 'eventsource'; // a browser's own cannot send a token

const query = 'subscription Watch($after: String) { templateAdded(after: $after) { id name } }';

/** How long a stream may be silent, in ms, before it counts as lost. */
const PATIENCE = 40_000;

export async function watch({ url, token, onTemplate, onGap }) {
  const seen = new Set();
  let source;
  let cursor;
  let silence;
  const fetchWithToken = async (input, init) => {
    const headers = { ...init.headers, Authorization: `Bearer ${await token()}` };
    const response = await fetch(input, { ...init, headers });
    // An error makes the client retry; an answer would end it.
    if (response.status >= 500) throw new Error(`status ${response.status}`);
    if (!response.ok) console.error(`status ${response.status}: ${await response.clone().text()}`);
    return response;
  };
  const listen = ({ lastEventId }) => {
    cursor = lastEventId || cursor;
    clearTimeout(silence);
    silence = setTimeout(open, PATIENCE);
  };
  const close = () => {
    clearTimeout(silence);
    source.close();
  };
  const open = () => {
    source?.close();
    // The first heartbeat comes at once, with the cursor of the start.
    const parameters = new URLSearchParams({ query, variables: JSON.stringify({ after: cursor }), heartbeat: '15s' });
    source = new EventSource(`${url}?${parameters}`, { fetch: fetchWithToken });
    listen({});
    source.addEventListener('heartbeat', listen);
    source.addEventListener('next', (event) => {
      listen(event);
      const { data, errors, extensions = {} } = JSON.parse(event.data);
      if (extensions.gap) return onGap(extensions.gap);
      if (extensions.eventId && seen.has(extensions.eventId)) return;
      seen.add(extensions.eventId);
      if (seen.size > 1000) seen.delete(seen.values().next().value);
      if (errors) console.error(errors);
      else onTemplate(data.templateAdded);
    });
    // Only a refused subscription completes. The source would send it again for ever.
    source.addEventListener('complete', close);
    source.addEventListener('error', () => source.readyState === source.CLOSED && close());
  };
  open();
  return close;
}
