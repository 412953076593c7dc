/** Store of cursors. Each method may throw: the client reports it once, and goes on in memory. */
export interface CursorStore {
  load(key: string): string | null | undefined;
  save(key: string, cursor: string): void;
  remove(key: string): void;
}

/** Makes a store that forgets everything with the page or the process. */
export function memoryStore(): CursorStore {
  const cursors = new Map<string, string>();
  return {
    load: (key) => cursors.get(key),
    save: (key, cursor) => void cursors.set(key, cursor),
    remove: (key) => void cursors.delete(key),
  };
}

/** Makes a store that survives a reload of the page: its tab's `sessionStorage`. */
export function sessionStore(prefix = 'pubsub-relay:'): CursorStore {
  return {
    load: (key) => sessionStorage.getItem(prefix + key),
    save: (key, cursor) => sessionStorage.setItem(prefix + key, cursor),
    remove: (key) => sessionStorage.removeItem(prefix + key),
  };
}
