export { RelayError, type RelayErrorCode } from './errors.js';
export { memoryStore, sessionStore, type CursorStore } from './storage.js';
export type { Gap, Options, Request, Result, Sink, State } from './subscription.js';
export { Writes } from './writes.js';
