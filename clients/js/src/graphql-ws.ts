import { createClient, type Client, type ClientOptions } from 'graphql-ws';

import { RelayError, typed } from './errors.js';
import { PATIENCE, Subscription, authorization, iterate, retryWait, type Options, type Request, type Result, type Sink } from './subscription.js';
import { Writes } from './writes.js';

export type WebSocketOptions = Options & Omit<ClientOptions, 'url' | 'connectionParams' | 'retryAttempts' | 'shouldRetry' | 'retryWait'>;

/** A graphql-ws client whose subscriptions go on where they were. It fits wherever graphql-ws's own does. */
export interface RelayClient extends Omit<Client, 'subscribe' | 'iterate'> {
  subscribe<T = any>(request: Request, sink: Sink<T>): () => void;
  iterate<T = any>(request: Request): AsyncIterableIterator<Result<T>>;
}

/** Close code, ours, for a server whose `connection_ack` has no cursor. */
const NOT_A_RELAY = 4900;

/** Creates a client over WebSocket. It reconnects for ever, but not with a refused token. */
export function createRelayClient(given: WebSocketOptions): RelayClient {
  const options = { writes: new Writes(), ...given };
  const { token, onGap, onState, onWarning, storage, writes, patience = PATIENCE, ...rest } = options;
  let start: string | undefined;
  let failure: RelayError | undefined;
  let silence: ReturnType<typeof setTimeout> | undefined;
  const connectionParams = async () => {
    try {
      return { token: await authorization(options) };
    } catch (error) {
      failure = error as RelayError;
      throw error;
    }
  };
  // 4403 is a refused token, unless the token has expired or cannot be checked at the moment.
  const shouldRetry = (event: any) =>
    !failure && (event?.code !== 4403 || /^token expired$|at the moment/.test(event.reason));
  const client = createClient({
    ...rest,
    ...(rest.webSocketImpl ? { webSocketImpl: listened(rest.webSocketImpl as typeof WebSocket) } : {}),
    ...(token && { connectionParams }),
    retryAttempts: Infinity,
    retryWait: options.retryWait ?? retryWait,
    shouldRetry,
  });
  const listen = () => {
    clearTimeout(silence);
    silence = setTimeout(() => client.terminate(), patience);
  };
  client.on('connecting', () => {
    failure = undefined;
    onState?.('connecting');
    listen();
  });
  client.on('message', listen);
  client.on('connected', (socket, payload) => {
    const cursor = (payload as { cursor?: string } | undefined)?.cursor;
    if (cursor) {
      start = cursor;
      return onState?.('live');
    }
    const text = `${options.url} is no relay: its connection_ack has no cursor. Check the address.`;
    failure = new RelayError('NOT_A_RELAY', text);
    (socket as WebSocket).close(NOT_A_RELAY, 'no relay');
  });
  client.on('closed', (event: any) => {
    clearTimeout(silence);
    onState?.(event?.code === 1000 || !shouldRetry(event) ? 'ended' : 'waiting');
  });
  const subscribe = <T>(request: Request, sink: Sink<T>) => {
    const subscription = new Subscription<T>(request, sink, options, () => start);
    return client.subscribe(subscription.payload() as never, {
      next: (result) => subscription.next(result as Result<T>),
      error: (error) => subscription.error(failure ?? typed(error)),
      complete: () => subscription.complete(),
    });
  };
  return {
    ...client,
    subscribe,
    iterate: (request) => iterate((sink) => subscribe(request, sink)),
    // It waits for a connection that is not open yet. That this fails is no error any more.
    dispose: async () => client.dispose()?.catch(() => {}),
  };
}

/**
 * Returns the class of sockets, each with a listener for errors. graphql-ws takes its own away when it
 * terminates a socket that is not open yet; the error of `ws` would then end the process.
 */
function listened(Socket: typeof WebSocket): typeof WebSocket {
  return class extends Socket {
    constructor(url: string | URL, protocols?: string | string[]) {
      super(url, protocols);
      this.addEventListener('error', () => {});
    }
  };
}
