// The list of results: what the runs of this page brought, with their times and the connection's
// state. It keeps the newest results only, so that a busy subscription cannot fill the tab.

/** Results that the list keeps. */
export const KEPT = 200;

/** List of results. Its `state` is never changed, only replaced. */
export class Log {
  #listeners = new Set();
  #count = 0;
  state = { results: [], dropped: 0, user: '', connection: '', cancel: undefined };

  subscribe = (listener) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  set(change) {
    this.state = { ...this.state, ...change };
    this.#listeners.forEach((listener) => listener());
  }

  /** Adds a result on top. `of` names the operation. */
  add(of, { data, errors, extensions = {} }) {
    const { cursor, eventId, replayed, gap, ...rest } = extensions;
    const shown = {
      ...(errors && { errors }),
      ...(data !== undefined && { data }),
      ...(Object.keys(rest).length && { extensions: rest }),
    };
    const result = { n: ++this.#count, at: new Date(), of, shown, cursor, eventId, replayed, gap };
    const results = [result, ...this.state.results];
    this.set({ results: results.slice(0, KEPT), dropped: this.state.dropped + Number(results.length > KEPT) });
  }

  clear = () => this.set({ results: [], dropped: 0 });
}
