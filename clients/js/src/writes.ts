/** Most tokens in one request, as the server takes them. */
const KEPT = 8;

/** Header for the tokens of requests that have no extensions of their own. */
const HEADER = 'x-relay-read-after';

type Extensions = Record<string, unknown> | null | undefined;

/**
 * Tokens of the latest writes. A request that carries them waits until its pod has applied these
 * writes, whatever pod that is. Several are kept, since answers may overtake each other.
 */
export class Writes {
  private tokens: string[] = [];

  /** Keeps the token of a mutation's result. Forgets all if the server does not know them. */
  note(result: { extensions?: Extensions; errors?: readonly unknown[] } | null | undefined): void {
    const written = result?.extensions?.['written'];
    if (typeof written === 'string') {
      this.tokens = [...this.tokens.filter((token) => token !== written), written].slice(-KEPT);
    }
    const codes = result?.errors?.map((error) => (error as { extensions?: Extensions })?.extensions?.['code']);
    if (codes?.includes('BAD_READ_AFTER')) this.tokens = [];
  }

  /** Adds the tokens to the extensions of a request, unless it has tokens of its own. */
  extend(extensions: Extensions): Extensions {
    return this.tokens.length ? { readAfter: [...this.tokens], ...extensions } : extensions;
  }

  /**
   * Returns a `fetch` that sends the tokens as a header and keeps those of answers: for the queries
   * and mutations of Apollo Client's `HttpLink`, of urql, of Relay, or of your own.
   */
  fetch(inner: typeof fetch = fetch): typeof fetch {
    return async (input, init) => {
      const headers = new Headers(init?.headers ?? (input instanceof Request ? input.headers : undefined));
      if (this.tokens.length && !headers.has(HEADER)) headers.set(HEADER, this.tokens.join(','));
      const response = await inner(input, { ...init, headers });
      if (/json/.test(response.headers.get('content-type') ?? '')) {
        // A body that cannot be read is the caller's to report.
        this.note(await response.clone().json().catch(() => undefined));
      }
      return response;
    };
  }
}
