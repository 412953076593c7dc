import { EventSource } from 'eventsource'; // a browser's own cannot send a token

const query = 'subscription { templateAdded { id name } }';

export function watch({ url, token, onTemplate, onGap }) {
  const seen = new Set();
  const fetchWithToken = async (input, init) => {
    const headers = { ...init.headers, Authorization: `Bearer ${await token()}` };
    const response = await fetch(input, { ...init, headers });
    if (response.status >= 500) throw new Error(`status ${response.status}`); // comes back; an answer would end it
    return response;
  };
  const source = new EventSource(`${url}?query=${encodeURIComponent(query)}`, { fetch: fetchWithToken });
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
