import { useEffect, useRef, useState } from 'react';

import type { RelayError } from './errors.js';
import type { RelayClient } from './graphql-ws.js';
import type { RelaySseClient } from './graphql-sse.js';
import type { Gap, Request, Result } from './subscription.js';

/** What the hook has received. */
export interface Watched<T> {
  /** Latest result. */
  result?: Result<T>;
  /** Error that ended the subscription. */
  error?: RelayError;
}

/** What the hook does with what it receives. The functions may change with every rendering. */
export interface Handlers<T> {
  onResult?: (result: Result<T>) => void;
  onGap?: (gap: Gap) => void;
}

/**
 * Watches a subscription while the component is mounted. A change of the client or of the request's
 * content begins a new one; `null` watches nothing.
 */
export function useRelaySubscription<T = any>(
  client: RelayClient | RelaySseClient,
  request: Request | null,
  handlers: Handlers<T> = {},
): Watched<T> {
  const [watched, setWatched] = useState<Watched<T>>({});
  const latest = useRef(handlers);
  useEffect(() => {
    latest.current = handlers;
  });
  const text = JSON.stringify(request);
  useEffect(() => {
    setWatched({});
    const parsed: Request | null = JSON.parse(text);
    if (!parsed) return undefined;
    return client.subscribe<T>(parsed, {
      next: (result) => {
        latest.current.onResult?.(result);
        setWatched({ result });
      },
      error: (error) => setWatched((watched) => ({ ...watched, error })),
      complete: () => {},
      ...(latest.current.onGap && { gap: (gap: Gap) => latest.current.onGap?.(gap) }),
    });
  }, [client, text]);
  return watched;
}
