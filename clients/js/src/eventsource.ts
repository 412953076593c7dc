import { RelayError } from './errors.js';
import { PATIENCE, Subscription, authorization, type Options, type Request, type Result, type Sink } from './subscription.js';

/** An `EventSource` that takes a `fetch`, as that of the package `eventsource` does. A browser's own ignores it. */
type EventSourceConstructor = new (url: string, init?: any) => {
  readyState: number;
  close(): void;
  addEventListener(type: string, listener: (event: any) => void): void;
};

export type EventSourceOptions = Options & {
  /** Constructor. Default: the browser's own, which sends cookies, but no token. */
  EventSource?: EventSourceConstructor;
};

const CLOSED = 2;

/** Watches a subscription by an `EventSource`. Returns the function that ends it. */
export function watch<T = any>(options: EventSourceOptions, request: Request, sink: Sink<T>): () => void {
  const { url, onState, patience = PATIENCE, EventSource: Source = globalThis.EventSource as EventSourceConstructor } = options;
  let source: InstanceType<EventSourceConstructor> | undefined;
  let silence: ReturnType<typeof setTimeout> | undefined;
  let failure: unknown;
  const subscription = new Subscription<T>(request, sink, options);
  const payload = subscription.payload();
  const send = async (input: any, init: any) => {
    const headers = { ...init.headers };
    try {
      const authorized = await authorization(options);
      if (authorized) headers.Authorization = authorized;
    } catch (error) {
      failure = error;
      // An answer ends the source; an error would make it try again.
      return new Response(null, { status: 401 });
    }
    const response = await fetch(input, { ...init, headers });
    if (response.status >= 500 || response.status === 429) throw new TypeError(`status ${response.status}`);
    if (!response.ok) failure = (await response.clone().json().catch(() => undefined))?.errors ?? response;
    return response;
  };
  const close = () => {
    clearTimeout(silence);
    source?.close();
  };
  const end = (error?: unknown) => {
    close();
    onState?.('ended');
    if (error === undefined) subscription.complete();
    else subscription.error(error);
  };
  const listen = () => {
    clearTimeout(silence);
    silence = setTimeout(open, patience);
  };
  const open = () => {
    close();
    onState?.('connecting');
    const { query, operationName, variables, extensions } = payload;
    const parameters = new URLSearchParams({ query, heartbeat: '15s' });
    if (operationName) parameters.set('operationName', operationName);
    if (variables) parameters.set('variables', JSON.stringify(variables));
    if (extensions) parameters.set('extensions', JSON.stringify(extensions));
    const current = (source = new Source(`${url}?${parameters}`, { fetch: send, withCredentials: true }));
    listen();
    current.addEventListener('open', () => onState?.('live'));
    current.addEventListener('heartbeat', ({ lastEventId }) => {
      listen();
      // The first heartbeat comes at once, with the cursor of the start.
      subscription.moved(lastEventId);
    });
    current.addEventListener('next', ({ data }) => {
      listen();
      subscription.next(JSON.parse(data) as Result<T>);
    });
    // Only a refused subscription completes; its errors came before.
    current.addEventListener('complete', () => end());
    current.addEventListener('error', () => {
      if (current !== source) return;
      if (current.readyState === CLOSED) return end(failure ?? unavailable(url));
      onState?.('waiting');
    });
  };
  open();
  return close;
}

function unavailable(url: string): RelayError {
  return new RelayError('DISCONNECTED', `${url} refused the stream: check the address and the token.`);
}
