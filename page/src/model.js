// The story's state: four watchers, a change on its way, and who received it.
//
// It concludes from what arrives. A user counts as left out only once the user's pod has the event
// and the user has nothing.

import { ask, run, sleep, watch } from './cluster.js';
import { documents } from './declared.js';
import { nameOf } from './token.js';
import * as tutorial from './tutorial.js';

/** Users that the page shows. */
const PANES = 4;
/** Results that a pane keeps. */
const KEPT = 50;
/** Time between two questions whether a pod has an event, in ms. */
const POLL = 60;
/** Time that a pod has to get an event, in ms. A pod of a shared topic takes some 20 ms. */
const REACH = 2_500;
/** Time that a user's result has, once the pod has the event, in ms. Both take the same moment. */
const SETTLE = 300;
/** Time without a result after which a declared domain's user counts as left out, in ms. */
const QUIET = 1_200;
/** Time that a pod has to end its connections, and to be back, in ms. */
const RESTART = 20_000;

export class Story {
  #listeners = new Set();
  #stops = [];
  #acts = 0;
  #seen = new Set();

  constructor({ pods, deaf, domain }) {
    this.places = { shared: pods, deaf };
    this.isTutorial = domain.isTutorial;
    this.audience = domain.audience;
    const users = domain.users.slice(0, PANES).map((user) => ({ ...user, name: nameOf(user.token) }));
    this.locations = [...new Set(users.flatMap(tutorial.locations))].sort();
    // `meant`: ids that the user should have and has not.
    const panes = users.map((user) => ({ user, results: [], meant: [], count: 0, connection: 'connecting' }));
    const watch = this.isTutorial ? tutorial.WATCH : '';
    this.state = { mode: 'shared', panes, act: null, restart: null, isBusy: false, line: '', watch, change: '' };
  }

  subscribe = (listener) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  #set(change) {
    this.state = { ...this.state, ...change };
    this.#listeners.forEach((listener) => listener());
  }

  #setPane(n, change) {
    this.#set({ panes: this.state.panes.map((pane, at) => (at === n ? { ...pane, ...change(pane) } : pane)) });
  }

  /** Returns the pod that the user in this pane is connected to. */
  podOf(n) {
    const pods = this.places[this.state.mode];
    return pods[n % pods.length];
  }

  async begin() {
    if (!this.isTutorial) {
      try {
        const [{ user }] = this.state.panes;
        this.#set(await documents(this.podOf(0), user.token));
      } catch (error) {
        this.#set({ line: `${error.message} Write the documents yourself.` });
      }
    }
    this.#watchAll();
  }

  #watchAll() {
    this.#stops.forEach((stop) => stop());
    this.#stops = [];
    this.#set({ act: null, restart: null });
    this.state.panes.forEach((_, n) => this.#watch(n));
  }

  #watch(n) {
    this.#stops[n]?.();
    this.#setPane(n, () => ({ results: [], meant: [], count: 0, connection: 'connecting', error: undefined }));
    if (!this.state.watch) return;
    const [pod, { user }] = [this.podOf(n), this.state.panes[n]];
    let isOver = false;
    // A socket that closes slowly still reports to a pane that watches anew.
    const unlessOver = (then) => (value) => isOver || then(value);
    const end = watch(pod, user.token, this.state.watch, {
      state: unlessOver((connection) => this.#setPane(n, () => ({ connection }))),
      result: unlessOver((result) => this.#receive(n, result)),
      gap: unlessOver(({ reason }) => this.#setPane(n, () => ({ error: `events are missing: ${reason}` }))),
      error: unlessOver((error) => this.#setPane(n, () => ({ error: error.message, connection: 'ended' }))),
    });
    this.#stops[n] = () => {
      isOver = true;
      end();
    };
  }

  #receive(n, { data, errors, extensions = {} }) {
    const value = data && Object.values(data)[0];
    const text = errors ? errors[0].message : (value?.name ?? JSON.stringify(value));
    const { eventId, replayed } = extensions;
    const result = { key: `${eventId}`, id: value?.id, text, replayed: !!replayed, at: Date.now() };
    const { act } = this.state;
    // Nothing else names the event of a declared domain: it is the first new one.
    const isOfAct = act && !this.isTutorial && !act.event && !this.#seen.has(eventId);
    if (isOfAct) act.event = eventId;
    this.#seen.add(eventId);
    this.#setPane(n, ({ results, meant, count }) => ({
      results: [result, ...results].slice(0, KEPT),
      meant: meant.filter((id) => id !== result.id),
      count: count + 1,
    }));
    this.#judge();
  }

  /** Changes the user of a pane, or a document, and watches again. */
  setToken(n, token) {
    this.#setPane(n, ({ user }) => ({ user: { ...user, token, name: nameOf(token), keys: undefined } }));
    this.#watch(n);
  }

  setWatch(watch) {
    this.#set({ watch });
    this.#watchAll();
  }

  setChange(change) {
    this.#set({ change });
  }

  /** Switches to pods that share a topic, or to deaf ones. */
  async setMode(mode) {
    if (mode === this.state.mode || this.state.isBusy) return;
    this.#set({ isBusy: true, line: mode === 'deaf' ? 'Starting the deaf pods …' : '' });
    try {
      if (mode === 'deaf') await ask('deaf');
      const line =
        mode === 'deaf'
          ? 'Each pod now has a bus of its own, in its memory. Publish again: an event reaches the users of its own pod only.'
          : 'The pods share one topic again.';
      this.#set({ mode, line });
      this.#watchAll();
    } catch (error) {
      this.#set({ line: error.message });
    } finally {
      this.#set({ isBusy: false });
    }
  }

  /** Publishes a change and follows it until each user's verdict is known. */
  async publish({ from, name, shared }) {
    if (this.state.isBusy) return;
    this.#set({ isBusy: true, restart: null });
    try {
      await this.#follow({ from, name, shared });
    } finally {
      this.#set({ isBusy: false });
    }
  }

  /** Runs the mutation as the user of the pane `from`, at that user's pod. */
  async #follow({ from, name, shared }) {
    const [pod, author] = [this.podOf(from), this.state.panes[from].user.token];
    const act = {
      n: ++this.#acts,
      from,
      author,
      name,
      shared,
      pod: pod.name,
      began: Date.now(),
      has: {},
      verdicts: [],
      stage: 'sent',
    };
    this.#set({ act, line: `${nameOf(author)} sends the mutation to ${pod.name}.` });
    try {
      const [query, variables] = this.isTutorial ? tutorial.change({ name, shared }) : [this.state.change];
      const data = await run(pod, author, query, variables);
      act.took = Date.now() - act.began;
      act.stage = 'acknowledged';
      if (this.isTutorial) act.id = tutorial.idOf(data);
    } catch (error) {
      act.stage = 'failed';
      this.#set({ line: error.message });
      return act;
    }
    this.state.panes.forEach((pane, n) => {
      const isMeant = this.isTutorial && !tutorial.leftOut(pane.user, act);
      const isHere = pane.results.some(({ id }) => id === act.id);
      if (isMeant && !isHere) this.#setPane(n, ({ meant }) => ({ meant: [...meant, act.id] }));
    });
    await (this.isTutorial ? Promise.all(this.state.panes.map((_, n) => this.#reach(n, act))) : sleep(QUIET));
    act.isOver = true;
    this.#judge();
    this.#set({ line: this.#tell(act) });
    return act;
  }

  /** Asks the pane's pod until it has the event, then gives the user's result its time. */
  async #reach(n, act) {
    const [pod, { user }] = [this.podOf(n), this.state.panes[n]];
    while (Date.now() - act.began < REACH) {
      const data = await run(pod, user.token, ...tutorial.find(act.id)).catch(() => undefined);
      if (data && tutorial.isFound(data)) {
        act.has[pod.name] ??= Date.now() - act.began;
        this.#judge();
        return sleep(SETTLE).then(() => this.#judge());
      }
      await sleep(POLL);
    }
    act.has[pod.name] ??= null;
    this.#judge();
  }

  /** Concludes for each user from what has arrived. */
  #judge() {
    const { act, panes } = this.state;
    if (!act || act.stage !== 'acknowledged') return;
    const verdicts = panes.map((pane, n) => {
      const pod = this.podOf(n);
      const arrived = pane.results.find(({ id, key }) => (this.isTutorial ? id === act.id : key === act.event));
      if (arrived) {
        const why = arrived.replayed ? 'replayed after the resume' : this.isTutorial ? tutorial.by(pane.user, act) : '';
        return { is: 'received', took: arrived.at - act.began, why };
      }
      const has = act.has[pod.name];
      const mayArrive = has !== null && (has === undefined || Date.now() - act.began < has + SETTLE);
      if (!act.isOver && mayArrive) return { is: 'waiting', why: '' };
      return this.#reason(pane, pod, act);
    });
    act.verdicts = verdicts;
    this.#set({});
  }

  #reason({ user, connection }, pod, act) {
    const rule = this.isTutorial ? tutorial.leftOut(user, act) : this.#guess(user, act);
    if (rule) return { is: 'out', why: rule };
    if (connection !== 'live') return { is: 'away', why: `not connected: ${pod.name} is away` };
    if (act.has[pod.name] === null) return { is: 'missed', why: `${pod.name} never saw it: its bus is its own` };
    return { is: 'missed', why: 'it should have arrived' };
  }

  /** Returns the likely reason in a declared domain, whose rule the page does not run. */
  #guess(user, { author }) {
    const { keys = [], exceptAuthor } = this.audience ?? {};
    if (exceptAuthor && user.token === author) return tutorial.OWN;
    if (!keys.length) return undefined;
    const interests = user.keys?.length ? `listens to ${user.keys.join(', ')}` : 'listens to other keys';
    return `${interests}; the event is for ${keys.join(' or ')}`;
  }

  /** Returns the outcome as one line. */
  #tell(act) {
    const named = (is) => this.state.panes.filter((_, n) => act.verdicts[n]?.is === is).map(({ user }) => user.name);
    const list = (names) => new Intl.ListFormat('en').format(names);
    const [received, missed] = [named('received'), named('missed')];
    const what = this.isTutorial ? `“${act.name}”` : 'The event';
    const slowest = Math.max(...act.verdicts.map(({ is, took }) => (is === 'received' ? took : 0)));
    const first = received.length ? `${what} reached ${list(received)} within ${slowest} ms.` : `${what} reached no user.`;
    const second = missed.length ? ` ${list(missed)} missed it.` : '';
    return first + second;
  }

  /** Restarts the pod of a pane, publishes something for its user meanwhile, and watches it resume. */
  async restart(n) {
    if (this.state.isBusy) return;
    const [pod, { user }] = [this.podOf(n), this.state.panes[n]];
    const say = (line) => this.#set({ line });
    const step = (phase) => this.#set({ restart: { pod: pod.name, n, phase } });
    const until = async (is) => {
      const end = Date.now() + RESTART;
      while (!is() && Date.now() < end) await sleep(20);
      return is();
    };
    const pane = () => this.state.panes[n];
    this.#set({ isBusy: true });
    try {
      await ask(`restart/${pod.name}`);
      step('ends');
      say(`${pod.name} ends its connections …`);
      if (!(await until(() => pane().connection !== 'live'))) throw new Error(`${pod.name} did not end its connections.`);
      step('away');
      const before = pane().count;
      const from = this.state.panes.findIndex((other, at) => this.podOf(at) !== pod && other.user.token !== user.token);
      const shared = tutorial.locations({ keys: user.keys ?? [] }).slice(0, 1);
      const act = from >= 0 && (await this.#follow({ from, name: `While ${pod.name} was away`, shared }));
      if (!(await until(() => pane().connection === 'live')))
        throw new Error(`${user.name} could not connect to ${pod.name} again.`);
      const isWhole = () => (this.isTutorial ? pane().meant.length === 0 : pane().count > before);
      await (this.isTutorial ? until(isWhole) : sleep(QUIET));
      this.#judge();
      step('back');
      say(`${user.name} resumed at ${pod.name}: ${this.#outcome(pane(), act, pane().count - before)}.`);
    } catch (error) {
      this.#set({ restart: null });
      say(error.message);
    } finally {
      this.#set({ isBusy: false });
    }
  }

  /** Returns what a resume brought. It may also bring events from before the page began. */
  #outcome({ results, meant }, act, count) {
    if (meant.length) return `${meant.length} missing`;
    if (!this.isTutorial) return `${count} received meanwhile`;
    const isReplayed = act && results.some(({ id, replayed }) => id === act.id && replayed);
    return isReplayed ? `“${act.name}” was replayed, nothing missed` : 'nothing missed';
  }
}
