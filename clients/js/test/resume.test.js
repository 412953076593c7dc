// The package against two real pods on one topic of the emulator: whatever ends a connection,
// every client is told every event once.

import assert from 'node:assert/strict';
import { createHmac, randomUUID } from 'node:crypto';
import { after, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { memoryStore } from 'pubsub-relay-client';

import { Balancer, Pod, eventually } from '../../../tests/clients/pod.js';
import { transports } from './transports.js';

const { PUBSUB_EMULATOR_HOST } = process.env;
const SECRET = 'a secret of thirty-two bytes for tests';
const skip = PUBSUB_EMULATOR_HOST ? false : 'no emulator: PUBSUB_EMULATOR_HOST is not set';
if (skip && process.env.CI === 'true') throw new Error(skip);

/** Two pods, and one address in front of them that leads to the first. */
class Pods {
  static async start(settings = {}) {
    const pods = new Pods();
    const common = {
      PUBSUB_EMULATOR_HOST,
      RELAY_BROKER: `pubsub://client-${randomUUID().slice(0, 13)}/events`,
      RELAY_DRAIN_DELAY: '0s',
      RELAY_DRAIN_SPREAD: '500ms',
      ...settings,
    };
    pods.all = await Promise.all(['a', 'b'].map((name) => Pod.start({ ...common, RELAY_POD: name })));
    pods.balancer = await Balancer.start(pods.all[0]);
    pods.ends = [];
    return pods;
  }

  /** Starts every transport. Returns what each receives: names, gaps and errors. */
  async watch(options = {}) {
    const received = {};
    for (const [name, start] of Object.entries(transports)) {
      const list = (received[name] = []);
      this.ends.push(
        start({
          url: `${this.balancer.http}/graphql`,
          token: () => 'ZOLO',
          retryWait: () => sleep(100),
          onName: (name) => list.push(name),
          onGap: (gap) => list.push(`gap: ${gap.reason}`),
          onError: (error) => list.push(`error: ${error}`),
          ...(typeof options === 'function' ? options(name) : options),
        }),
      );
    }
    await this.balancer.pod.untilWatchers(Object.keys(transports).length);
    return received;
  }

  stop() {
    this.ends.forEach((end) => end());
    this.balancer.cut();
    this.balancer.stop();
    this.all.forEach((pod) => pod.stop());
  }
}

async function expectAll(received, names) {
  const isThere = (list) => list.includes(names.at(-1));
  await eventually(`all have ${names.at(-1)}: ${JSON.stringify(received)}`, () => Object.values(received).every(isThere));
  await sleep(300);
  for (const [name, list] of Object.entries(received)) assert.deepEqual(list, names, name);
}

describe('a subscription of the package', { skip, timeout: 240_000 }, () => {
  const started = [];
  const start = async (settings) => {
    const pods = await Pods.start(settings);
    started.push(pods);
    return pods;
  };
  after(() => started.forEach((pods) => pods.stop()));

  const ends = {
    cut: ({ balancer }) => balancer.cut(),
    drain: ({ all }) => void all[0].drain(),
    crash: ({ all }) => all[0].stop(),
  };
  for (const [name, end] of Object.entries(ends)) {
    it(`goes on on another pod after a ${name}, also before its first result`, async () => {
      const pods = await start();
      const received = await pods.watch();
      const [, other] = pods.all;
      pods.balancer.pod = null;
      end(pods);
      if (name !== 'cut') await eventually('the pod is gone', () => pods.all[0].ended);
      else await pods.all[0].untilWatchers(0);
      await other.addTemplate('away');
      pods.balancer.pod = other;
      await expectAll(received, ['away']);
      await other.untilWatchers(Object.keys(transports).length);
      await other.addTemplate('live');
      pods.balancer.cut();
      await other.addTemplate('away again');
      await expectAll(received, ['away', 'live', 'away again']);
    });
  }

  it('goes on after a network that swallows everything, also before its first result', async () => {
    const pods = await start();
    const received = await pods.watch({ patience: 4_000 });
    for (const names of [['first'], ['first', 'second']]) {
      pods.balancer.swallow();
      await pods.all[0].addTemplate(names.at(-1));
      await expectAll(received, names);
    }
  });

  it('gets a fresh token when the old one has expired', async () => {
    const pods = await start({ RELAY_AUTH: 'jwt', RELAY_JWT_SECRET: SECRET });
    let tokens = 0;
    const token = () => {
      tokens += 1;
      return signed({ sub: '4', exp: Date.now() / 1000 + (tokens > 2 * Object.keys(transports).length ? 600 : -3) });
    };
    const received = await pods.watch({ token });
    const before = tokens;
    await eventually('each client has asked for another token', () => tokens >= 2 * before || tokens > 20);
    await pods.all[0].untilWatchers(Object.keys(transports).length);
    await add(pods.all[0], 'fresh', signed({ sub: '3', exp: Date.now() / 1000 + 600 }));
    await expectAll(received, ['fresh']);
  });

  it('goes on from a stored cursor, as after a reload of the page', async () => {
    const pods = await start();
    const stores = Object.fromEntries(Object.keys(transports).map((name) => [name, memoryStore()]));
    const first = await pods.watch((name) => ({ storage: stores[name] }));
    await pods.all[0].addTemplate('seen');
    await expectAll(first, ['seen']);
    pods.ends.splice(0).forEach((end) => end());
    await pods.all[0].untilWatchers(0);
    await pods.all[0].addTemplate('missed');
    const second = await pods.watch((name) => ({ storage: stores[name] }));
    await eventually('all caught up', () => Object.values(second).every((list) => list.includes('missed')));
    // What the page has seen may come again within 15 s: a new page cannot know.
    for (const [name, list] of Object.entries(second)) {
      assert.deepEqual(list.filter((name) => name !== 'seen'), ['missed'], name);
    }
  });

  it('reports a gap when no pod reaches back', async () => {
    const pods = await start({ RELAY_BROKER: 'memory:' });
    const received = await pods.watch();
    await pods.all[0].addTemplate('before');
    await expectAll(received, ['before']);
    pods.balancer.pod = null;
    pods.all[0].stop();
    pods.all[1].stop();
    // A pod in memory knows nothing from before its start.
    pods.balancer.pod = pods.all[1] = await Pod.start();
    await eventually('all have a gap', () => Object.values(received).every((list) => list.some((what) => what.startsWith('gap'))));
    await pods.all[1].untilWatchers(Object.keys(transports).length);
    await pods.all[1].addTemplate('after');
    await eventually('all go on', () => Object.values(received).every((list) => list.at(-1) === 'after'));
  });

  it('ends with an error when its token is refused', async () => {
    const pods = await start();
    const received = {};
    let tokens = 0;
    for (const [name, start] of Object.entries(transports)) {
      received[name] = [];
      pods.ends.push(
        start({
          url: `${pods.balancer.http}/graphql`,
          token: () => [(tokens += 1), 'NO_USER'][1],
          retryWait: () => sleep(50),
          onName: assert.fail,
          onError: (error) => received[name].push(error),
        }),
      );
    }
    await eventually('each has an error', () => Object.values(received).every((list) => list.length));
    await sleep(1_000);
    for (const [name, list] of Object.entries(received)) {
      assert.equal(list.length, 1, name);
      // Apollo and urql wrap the error, or pass its text on.
      const error = list[0].networkError ?? list[0];
      assert.equal(error.code, 'UNAUTHENTICATED', `${name}: ${error}`);
    }
    assert.equal(tokens, Object.keys(transports).length, 'none tries again');
  });

  it('ends with an error when a later token is refused', async () => {
    const pods = await start();
    let token = 'ZOLO';
    const errors = {};
    await pods.watch((name) => ({
      token: () => token,
      onError: (error) => (errors[name] ??= []).push(error.networkError ?? error),
    }));
    token = 'NO_USER';
    pods.balancer.cut();
    const codes = () => Object.values(errors).map((list) => list.map(({ code }) => code).join());
    await eventually(`each has an error: ${Object.keys(errors)}`, () => codes().length === Object.keys(transports).length);
    await sleep(500);
    assert.deepEqual(codes(), codes().map(() => 'UNAUTHENTICATED'));
  });

  it('ends with an error when its cursor is of another topic', async () => {
    const pods = await start();
    const foreign = await start();
    const { extensions } = await ask(foreign.all[0], '{ __typename }');
    for (const [name, start] of Object.entries(transports)) {
      const errors = [];
      const storage = { ...memoryStore(), removed: 0 };
      storage.load = () => (storage.removed ? undefined : extensions.cursor);
      storage.remove = () => (storage.removed += 1);
      pods.ends.push(
        start({
          url: `${pods.balancer.http}/graphql`,
          token: () => 'ZOLO',
          storage,
          onName: assert.fail,
          onError: (error) => errors.push(error),
        }),
      );
      await eventually(`${name} has an error`, () => errors.length);
      assert.equal((errors[0].networkError ?? errors[0]).code, 'BAD_CURSOR', `${name}: ${errors[0]}`);
      assert.equal(storage.removed, 1, 'a later start begins anew');
    }
  });
});

async function ask(pod, query, token = 'ZOLO') {
  const headers = { 'content-type': 'application/json', authorization: `Bearer ${token}` };
  return (await fetch(`${pod.http}/graphql`, { method: 'POST', headers, body: JSON.stringify({ query }) })).json();
}

async function add(pod, name, token) {
  const query = `mutation { addTemplate(templateInput: { name: "${name}", shareLocationIds: ["3"] }) { success } }`;
  assert.equal((await ask(pod, query, token)).data?.addTemplate.success, true);
}

function signed(claims) {
  const encode = (json) => Buffer.from(JSON.stringify(json)).toString('base64url');
  const text = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`;
  return `${text}.${createHmac('sha256', SECRET).update(text).digest('base64url')}`;
}
