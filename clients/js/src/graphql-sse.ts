import { createClient, type Client } from 'graphql-sse';

import { RelayError, typed } from './errors.js';
import { PATIENCE, Subscription, authorization, iterate, retryWait, type Options, type Request, type Result, type Sink } from './subscription.js';
import { watchful } from './watchful.js';
import { Writes } from './writes.js';

export type SseOptions = Options & { fetchFn?: typeof fetch };

/** A graphql-sse client, one request for each subscription, whose subscriptions go on where they were. */
export interface RelaySseClient extends Omit<Client, 'subscribe' | 'iterate'> {
  subscribe<T = any>(request: Request, sink: Sink<T>): () => void;
  iterate<T = any>(request: Request): AsyncIterableIterator<Result<T>>;
}

/** Creates a client over server-sent events. It reconnects for ever, but not with a refused token. */
export function createRelaySseClient(given: SseOptions): RelaySseClient {
  const options = { writes: new Writes(), ...given };
  const { url, onState, patience = PATIENCE, fetchFn = fetch } = options;
  let failure: RelayError | undefined;
  const headers = async (): Promise<Record<string, string>> => {
    const authorized = await authorization(options);
    return authorized ? { authorization: authorized } : {};
  };
  /** Passes on what a retry heals as an error of the network, and all else as it is. */
  const send: typeof fetch = async (input, init) => {
    const response = await fetchFn(input, init);
    if (response.status < 500 && response.status !== 429 && !response.ok) {
      const body = await response.clone().json().catch(() => undefined);
      failure = body?.errors ? typed(body.errors) : typed(response);
    }
    return response;
  };
  const watched = watchful(send, patience);
  const client = createClient({
    url,
    headers: headers as never,
    fetchFn: watched,
    retryAttempts: Infinity,
    retry: async (retries) => {
      if (failure) throw failure;
      onState?.('waiting');
      await (options.retryWait ?? retryWait)(retries);
    },
    on: { connecting: () => onState?.('connecting'), connected: () => onState?.('live') },
  });
  /** Returns the position before a subscription begins: that of a query. */
  const position = async (): Promise<string> => {
    const init = { method: 'POST', headers: { ...(await headers()), 'content-type': 'application/json' } };
    const response = await watched(url, { ...init, body: '{"query":"{ __typename }"}' });
    const cursor = (await response.json().catch(() => undefined))?.extensions?.cursor;
    if (failure) throw failure;
    if (cursor) return cursor;
    throw new RelayError('NOT_A_RELAY', `${url} is no relay: a query's answer has no cursor. Check the address.`);
  };
  const subscribe = <T>(request: Request, sink: Sink<T>) => {
    let isOver = false;
    let end = () => {};
    let start: string | undefined;
    const subscription = new Subscription<T>(request, sink, options, () => start);
    void (async () => {
      for (let retries = 0; !isOver && !start; retries++) {
        try {
          start = await position();
        } catch (error) {
          if (error instanceof RelayError) throw error;
          onState?.('waiting');
          await (options.retryWait ?? retryWait)(retries);
        }
      }
      if (isOver) return;
      end = client.subscribe(subscription.payload() as never, {
        next: (result) => subscription.next(result as Result<T>),
        error: (error) => fail(failure ?? error),
        complete: () => subscription.complete(),
      });
    })().catch(fail);
    function fail(error: unknown) {
      onState?.('ended');
      if (!isOver) subscription.error(error);
    }
    return () => {
      isOver = true;
      end();
    };
  };
  return { ...client, subscribe, iterate: (request) => iterate((sink) => subscribe(request, sink)) };
}
