import { RelayError, typed } from './errors.js';
import type { CursorStore } from './storage.js';
import type { Writes } from './writes.js';

/** A subscription to start. Its document need not declare `$after`. */
export interface Request {
  query: string;
  variables?: Record<string, unknown> | null;
  operationName?: string | null;
  extensions?: Record<string, unknown> | null;
}

/** Notice that events are missing. The client should query the present state again. */
export interface Gap {
  reason: string;
}

/** Result of a subscription. */
export interface Result<T = any> {
  data?: T | null;
  errors?: readonly { message: string }[];
  extensions?: { cursor?: string; eventId?: string; gap?: Gap; replayed?: boolean } & Record<string, unknown>;
}

/** Receiver of results. */
export interface Sink<T = any> {
  next(result: Result<T>): void;
  error(error: RelayError): void;
  complete(): void;
  /** Called when events are missing. Without it, and without `onGap`, `next` gets the notice itself. */
  gap?(gap: Gap): void;
}

/** What a client does: `waiting` is the time between two attempts, `ended` comes after an error. */
export type State = 'connecting' | 'live' | 'waiting' | 'ended';

/** Options of every client in this package. */
export interface Options {
  url: string;
  /** Returns a token that is valid now. It is called for every connection. */
  token?: () => string | Promise<string>;
  /** Called when events are missing: query the present state again. */
  onGap?: (gap: Gap, request: Request) => void;
  /** Called with each change of the connection's state. */
  onState?: (state: State) => void;
  /** Called with a problem that ends nothing, such as a store that is full. Default: `console.warn`. */
  onWarning?: (warning: RelayError) => void;
  /** Store of the cursors. Default: none, so that a new page begins anew. */
  storage?: CursorStore;
  /** Tokens of writes, shared with other clients and with `writes.fetch()`. Default: this client's own. */
  writes?: Writes;
  /** Time of silence after which a connection counts as lost, in ms. Default: 40,000. A pod pings every 25 s. */
  patience?: number;
  /** Waits before the next attempt. Default: a random time, at most 1, 2, 4, 8, then 10 s. */
  retryWait?: (retries: number) => Promise<void>;
}

export const PATIENCE = 40_000;

/** Number of event ids that are kept to drop repeats. A resume repeats at most 15 s. */
const KEPT_IDS = 1_000;

export const retryWait = (retries: number): Promise<void> =>
  new Promise((done) => setTimeout(done, Math.random() * Math.min(2 ** retries, 10) * 1_000));

/** Place of one subscription in the order of events, over all its connections. */
export class Subscription<T> {
  private readonly seen = new Set<string>();
  private readonly key: string;
  private cursor: string | undefined;
  private canStore: boolean;
  private isOver = false;

  constructor(
    private readonly request: Request,
    private readonly sink: Sink<T>,
    private readonly options: Options,
    /** Returns where the first connection began, as long as there is no result. */
    private readonly start: () => string | undefined = () => undefined,
  ) {
    this.key = JSON.stringify([request.query, request.operationName, request.variables]);
    this.canStore = options.storage !== undefined;
    this.cursor = this.stored((store) => store.load(this.key)) ?? (request.extensions?.['after'] as string | undefined);
  }

  /** Returns the request whose `extensions.after` is read anew each time that it is serialised. */
  payload(): { query: string } & Request {
    const { request } = this;
    const extensions = () => {
      const after = this.cursor;
      // Before the first result, a second connection begins where the first one did.
      this.cursor ??= this.start();
      const extensions = after === undefined ? request.extensions : { ...request.extensions, after };
      return this.options.writes ? this.options.writes.extend(extensions) : extensions;
    };
    return Object.defineProperty({ ...request }, 'extensions', { enumerable: true, get: extensions });
  }

  /** Passes on a result, unless it is a repeat. */
  next(result: Result<T>): void {
    this.options.writes?.note(result);
    const { cursor, eventId, gap } = result.extensions ?? {};
    // The refusal of a subscription has no data and no place in the order of events.
    if (result.errors && result.data === undefined && !cursor) return this.error(result.errors);
    this.moved(cursor);
    if (gap && (this.sink.gap || this.options.onGap)) {
      this.sink.gap?.(gap);
      return this.options.onGap?.(gap, this.request);
    }
    if (eventId && this.seen.has(eventId)) return;
    if (eventId) this.seen.add(eventId);
    if (this.seen.size > KEPT_IDS) this.seen.delete(this.seen.values().next().value!);
    this.sink.next(result);
  }

  /** Goes on from this cursor after the next interruption. */
  moved(cursor: string | undefined): void {
    if (!cursor) return;
    this.cursor = cursor;
    this.stored((store) => store.save(this.key, cursor));
  }

  /** Ends the subscription with an error. A cursor that was refused is not tried again. */
  error(error: unknown): void {
    if (this.isOver) return;
    this.isOver = true;
    const problem = typed(error);
    if (Array.isArray(problem.cause)) this.options.writes?.note({ errors: problem.cause });
    if (problem.code === 'BAD_CURSOR') this.stored((store) => store.remove(this.key));
    this.sink.error(problem);
  }

  complete(): void {
    if (this.isOver) return;
    this.isOver = true;
    this.sink.complete();
  }

  private stored<R>(use: (store: CursorStore) => R): R | undefined {
    if (!this.canStore) return undefined;
    try {
      return use(this.options.storage!);
    } catch (cause) {
      this.canStore = false;
      const text = `The cursor cannot be stored (${(cause as Error)?.message ?? cause}): after a reload this subscription begins anew. Free some space, allow storage, or pass another \`storage\`.`;
      warn(this.options, new RelayError('STORAGE_FAILED', text, { cause }));
      return undefined;
    }
  }
}

export function warn(options: Options, warning: RelayError): void {
  if (options.onWarning) options.onWarning(warning);
  else console.warn(warning.message);
}

/** Returns the header of a token, or throws a typed error. */
export async function authorization({ token }: Options): Promise<string | undefined> {
  if (!token) return undefined;
  try {
    return `Bearer ${await token()}`;
  } catch (cause) {
    const text = `The function \`token\` failed: ${(cause as Error)?.message ?? cause}. Let it return a valid token, then subscribe again.`;
    throw new RelayError('TOKEN_FAILED', text, { cause });
  }
}

/** Returns the results of a subscription as an async iterator. Leaving its loop ends the subscription. */
export function iterate<T>(subscribe: (sink: Sink<T>) => () => void): AsyncIterableIterator<Result<T>> {
  const waiting: ({ value: Result<T> } | { error: RelayError } | { done: true })[] = [];
  let wake: (() => void) | undefined;
  const put = (entry: (typeof waiting)[number]) => {
    waiting.push(entry);
    wake?.();
  };
  const end = subscribe({
    next: (value) => put({ value }),
    error: (error) => put({ error }),
    complete: () => put({ done: true }),
  });
  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    async next() {
      while (!waiting.length) await new Promise<void>((resolve) => (wake = resolve));
      const entry = waiting[0]!;
      // An end stays, for each later call.
      if ('error' in entry) throw entry.error;
      if ('done' in entry) return { done: true, value: undefined };
      waiting.shift();
      return { done: false, value: entry.value };
    },
    async return() {
      end();
      put({ done: true });
      return { done: true, value: undefined };
    },
    async throw(error) {
      end();
      put({ done: true });
      throw error;
    },
  };
}
