/** Why a subscription failed for good. */
export type RelayErrorCode =
  /** The cursor is of another topic or of an older release. It has been removed from its store. */
  | 'BAD_CURSOR'
  /** The pod refused the token, or does not know its user. */
  | 'UNAUTHENTICATED'
  /** The server is no relay: its `connection_ack` has no cursor. */
  | 'NOT_A_RELAY'
  /** The function `token` threw; `cause` is its error. */
  | 'TOKEN_FAILED'
  /** The store of the cursor is full or forbidden; `cause` is its error. The subscription goes on. */
  | 'STORAGE_FAILED'
  /** The connection ended for another reason that a retry does not heal. */
  | 'DISCONNECTED'
  /** Any other code that the server gives to an error, such as `VALIDATION_FAILED`. */
  | (string & {});

/** Error with a code for programs, and a message that says what to do. */
export class RelayError extends Error {
  override readonly name = 'RelayError';

  constructor(
    readonly code: RelayErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

const CURES: Record<string, string> = {
  BAD_CURSOR:
    'The stored cursor belongs to another topic or to an older release, and was removed. Query the present state, then subscribe again.',
  UNAUTHENTICATED: 'The pod refused the token. Check what `token` returns, then subscribe again.',
};

/** Makes the typed error of whatever a transport reports: GraphQL errors, a close event, a response. */
export function typed(error: unknown): RelayError {
  if (error instanceof RelayError) return error;
  if (Array.isArray(error) && error[0]) {
    const code: string = error[0].extensions?.code ?? 'REFUSED';
    return new RelayError(code, [error[0].message, CURES[code]].filter(Boolean).join(' '), { cause: error });
  }
  const { code, reason, status } = (error ?? {}) as { code?: unknown; reason?: unknown; status?: unknown };
  if (code === 4403 || code === 4401 || status === 401 || status === 403) {
    const text = typeof reason === 'string' && reason ? ` (${reason})` : '';
    return new RelayError('UNAUTHENTICATED', `${CURES.UNAUTHENTICATED}${text}`, { cause: error });
  }
  const what = typeof code === 'number' ? `closed with ${code} ${reason ?? ''}`.trim() : String((error as Error)?.message ?? error);
  return new RelayError('DISCONNECTED', `The connection ended for good: ${what}.`, { cause: error });
}
