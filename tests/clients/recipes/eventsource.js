import { EventSource } from 'eventsource'; // a browser's own cannot send a token

const query = 'subscription Watch($after: String) { templateAdded(after: $after) { id name } }';

export async function watch({ url, token, onTemplate, onGap }) {
  const seen = new Set();
  const fetchWithToken = async (input, init) => {
    const headers = { ...init.headers, Authorization: `Bearer ${await token()}` };
    const response = await fetch(input, { ...init, headers });
    // An error makes the client retry; an answer would end it.
    if (response.status >= 500) throw new Error(`status ${response.status}`);
    return response;
  };
  // Query, then watch from there: before its first event an EventSource has no id to send.
  const asked = await fetchWithToken(`${url}?query={templates{id}}`, { headers: { Accept: 'application/json' } });
  const variables = JSON.stringify({ after: (await asked.json()).extensions.cursor });
  const source = new EventSource(`${url}?${new URLSearchParams({ query, variables })}`, { fetch: fetchWithToken });
  source.addEventListener('next', (event) => {
    const { data, extensions } = JSON.parse(event.data);
    if (extensions.gap) return onGap(extensions.gap);
    if (seen.has(extensions.eventId)) return;
    seen.add(extensions.eventId);
    if (seen.size > 1000) seen.delete(seen.values().next().value);
    onTemplate(data.templateAdded);
  });
  return () => source.close();
}
