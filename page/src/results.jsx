// The list below GraphiQL's result: every result with its time, and the state of the connection.

import { useSyncExternalStore } from 'react';

import { KEPT } from './log.js';

const CONNECTIONS = {
  connecting: 'connecting',
  live: 'live',
  waiting: 'reconnecting',
  ended: 'ended',
  cancelled: 'cancelled',
};

/** Shows the list. `pod` is the name of the pod, or its address. */
export function Results({ log, pod }) {
  const { results, dropped, user, connection, cancel } = useSyncExternalStore(log.subscribe, () => log.state);
  return (
    <section className="log" aria-label="Results">
      <header>
        <p role="status">{connection ? `${pod} as ${user}, ${CONNECTIONS[connection]}` : 'no subscription runs'}</p>
        <button type="button" disabled={!cancel} onClick={cancel}>
          Cancel
        </button>
        <button type="button" disabled={!results.length} onClick={log.clear}>
          Clear
        </button>
      </header>
      {/* Without results nothing in it takes the keyboard's focus, and nothing scrolls. */}
      <ol aria-label="All results, the newest first" tabIndex={results.length ? 0 : undefined}>
        {results.map((result) => (
          <Result key={result.n} {...result} />
        ))}
      </ol>
      {dropped > 0 && (
        <p className="note">
          Only the newest {KEPT} results are kept; {dropped} older ones were dropped.
        </p>
      )}
    </section>
  );
}

function Result({ at, of, shown, cursor, eventId, replayed, gap }) {
  return (
    <li>
      <p>
        <time dateTime={at.toISOString()}>{time(at)}</time> <b>{of}</b>
        {replayed && <em> replayed</em>}
        {gap && <em> events are missing: {gap.reason}</em>}
      </p>
      <pre>{JSON.stringify(shown.errors ? shown : shown.data)}</pre>
      {(cursor || eventId) && (
        <details>
          <summary>cursor and event id</summary>
          <pre>{[cursor && `cursor   ${cursor}`, eventId && `eventId  ${eventId}`].filter(Boolean).join('\n')}</pre>
        </details>
      )}
    </li>
  );
}

const time = (at) => `${at.toLocaleTimeString('en-GB')}.${`${at.getMilliseconds()}`.padStart(3, '0')}`;
