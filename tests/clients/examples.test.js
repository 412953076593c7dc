// The examples of schema files: programs in Node and in Python publish, and stock clients with
// signed tokens receive exactly what is theirs, also after the end of their pod.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createPrivateKey, createPublicKey, randomUUID, sign } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { createClient as createSse } from 'graphql-sse';
import { createClient as createWs } from 'graphql-ws';
import WebSocket from 'ws';

import { Balancer, Pod, eventually } from './pod.js';
import { resuming } from './recipes/resuming.js';

const { PUBSUB_EMULATOR_HOST, PUBLISHER_PYTHON } = process.env;
const EXAMPLES = fileURLToPath(new URL('../../examples/', import.meta.url));
const NODE_PATH = fileURLToPath(new URL('node_modules', import.meta.url));
const der = readFileSync(new URL('../keys/test-only-rsa2048.der', import.meta.url));
const key = createPrivateKey({ key: der, format: 'der', type: 'pkcs1' });

const run = promisify(execFile);
const base64 = (json) => Buffer.from(JSON.stringify(json)).toString('base64url');

function token(claims) {
  const exp = Math.floor(Date.now() / 1000) + 600;
  const text = `${base64({ alg: 'RS256', kid: 'test' })}.${base64({ ...claims, exp })}`;
  return `${text}.${sign('RSA-SHA256', Buffer.from(text), key).toString('base64url')}`;
}

/** Two pods of one example on a topic of its own, with one address in front of them. */
class Example {
  project = `examples-${randomUUID().slice(0, 13)}`;
  clients = [];

  constructor(name) {
    this.name = name;
  }

  async start() {
    this.jwks = `${process.env.TARGET_TMPDIR}/${this.project}.json`;
    const jwk = createPublicKey(key).export({ format: 'jwk' });
    writeFileSync(this.jwks, JSON.stringify({ keys: [{ ...jwk, kid: 'test', alg: 'RS256', use: 'sig' }] }));
    const settings = {
      PUBSUB_EMULATOR_HOST,
      RELAY_BROKER: `pubsub://${this.project}/${this.name}`,
      RELAY_SCHEMA: `${EXAMPLES}${this.name}/schema.graphql`,
      RELAY_AUTH: 'jwt',
      RELAY_JWT_JWKS: this.jwks,
      RELAY_DRAIN_DELAY: '0s',
      RELAY_DRAIN_SPREAD: '500ms',
    };
    this.pods = await Promise.all(['a', 'b'].map((pod) => Pod.start({ ...settings, RELAY_POD: pod })));
    this.balancer = await Balancer.start(this.pods[0]);
  }

  stop() {
    this.clients.forEach((client) => client.dispose());
    this.balancer?.stop();
    this.pods?.forEach((pod) => pod.stop());
    rmSync(this.jwks, { force: true });
  }

  /** Publishes sample events with a program of the examples. Changes of the data are optional. */
  async publish(program, files, { isStructured = false, change = {} } = {}) {
    const paths = files.map((file, n) => {
      const event = JSON.parse(readFileSync(`${EXAMPLES}${this.name}/events/${file}.json`, 'utf8'));
      const path = `${process.env.TARGET_TMPDIR}/${this.project}-${n}.json`;
      writeFileSync(path, JSON.stringify({ ...event, data: { ...event.data, ...change } }));
      return path;
    });
    const flags = isStructured ? ['--structured'] : [];
    const [command, script] = program === 'node' ? [process.execPath, 'publish.js'] : [PUBLISHER_PYTHON, 'publish.py'];
    const { PATH } = process.env;
    await run(command, [EXAMPLES + script, ...flags, this.project, this.name, ...paths], {
      env: { PATH, PUBSUB_EMULATOR_HOST, NODE_PATH },
    });
    paths.forEach((path) => rmSync(path));
  }

  /** Publishes sample events, unchanged, with both programs in both modes. */
  async publishAll(files) {
    for (const program of ['node', 'python'])
      for (const isStructured of [false, true]) await this.publish(program, files, { isStructured });
  }

  /** Subscribes over WebSocket. Returns what arrives. */
  async watch(claims, query, variables = {}) {
    const seen = [];
    const client = createWs({
      url: `${this.balancer.http}/graphql`.replace('http', 'ws'),
      webSocketImpl: WebSocket,
      connectionParams: { authorization: `Bearer ${token(claims)}` },
      retryAttempts: Infinity,
      retryWait: () => sleep(50),
      shouldRetry: () => true,
    });
    this.clients.push(client);
    const sink = { next: (result) => seen.push(value(result)), error: (error) => seen.push(error), complete() {} };
    await this.added(() => resuming(client, (gap) => seen.push(gap)).subscribe({ query, variables }, sink));
    return seen;
  }

  /** Subscribes over server-sent events. Each retry goes on after the last result. */
  async stream(claims, query) {
    const [seen, ids] = [[], new Set()];
    const client = createSse({
      url: `${this.balancer.http}/graphql`,
      headers: { authorization: `Bearer ${token(claims)}` },
      retryAttempts: 1000,
      retry: () => sleep(50),
    });
    this.clients.push(client);
    let cursor;
    const variables = Object.defineProperty({}, 'after', { enumerable: true, get: () => cursor });
    const next = (result) => {
      cursor = result.extensions.cursor;
      if (!ids.has(result.extensions.eventId)) seen.push(value(result));
      ids.add(result.extensions.eventId);
    };
    const sink = { next, error: (error) => seen.push(error), complete: () => seen.push('complete') };
    await this.added(() => client.subscribe({ query, variables }, sink));
    return seen;
  }

  /** Waits until the watcher that `subscribe` adds is there. */
  async added(subscribe) {
    const before = await this.balancer.pod.metric('relay_watchers');
    subscribe();
    await this.balancer.pod.untilWatchers(before + 1);
  }
}

function value({ data, errors }) {
  return errors ?? Object.values(data)[0];
}

function received(seen, ...expected) {
  return eventually(`${JSON.stringify(expected)}, not ${JSON.stringify(seen)}`, () => seen.length >= expected.length);
}

const skip = !(PUBSUB_EMULATOR_HOST && PUBLISHER_PYTHON) && 'there is no emulator, or no Python';
const options = { skip, timeout: 120_000 };

describe('examples/orders', options, () => {
  const orders = new Example('orders');
  before(() => orders.start());
  after(() => orders.stop());

  it('tells each client exactly its orders, also on another pod', async () => {
    const all = 'subscription ($after: String) { orderUpdated(after: $after) { id status } }';
    const large = `subscription ($after: String) {
      orderUpdated(minTotal: 50, after: $after) { id customerId total } }`;
    const one = 'subscription ($id: ID, $after: String) { orderUpdated(id: $id, after: $after) { id total } }';
    const ann = await orders.watch({ sub: 'ann' }, all);
    const ann2 = await orders.watch({ sub: 'ann' }, one, { id: 'o-9' });
    const bob = await orders.stream({ sub: 'bob' }, all);
    const support = await orders.watch({ sub: 'sue', roles: ['support'] }, large);
    const mallory = await orders.watch({ sub: 'mallory', roles: ['user:ann'] }, all);

    await orders.publishAll(['placed', 'shipped']);
    await orders.publish('python', ['placed', 'shipped'], { isStructured: true, change: { status: 'PAID' } });
    await received(ann, 1, 2, 3, 4, 5);
    await received(bob, 1, 2, 3, 4, 5);

    const [first, second] = orders.pods;
    orders.balancer.pod = undefined;
    await first.drain();
    await orders.publish('node', ['placed', 'shipped'], { isStructured: true, change: { id: 'o-8' } });
    orders.balancer.pod = second;
    await second.untilWatchers(5);
    await orders.publish('python', ['placed', 'shipped'], { change: { id: 'o-9' } });
    await received(ann, 1, 2, 3, 4, 5, 6, 7);
    await received(ann2, 1);
    await received(bob, 1, 2, 3, 4, 5, 6, 7);
    await received(support, 1, 2, 3, 4, 5, 6, 7);

    const order = (id, status) => ({ id, status });
    const [placed, shipped] = [(id) => order(id, 'PLACED'), (id) => order(id, 'SHIPPED')];
    const four = (event) => Array(4).fill(event);
    assert.deepEqual(ann, [...four(placed('o-1')), order('o-1', 'PAID'), placed('o-8'), placed('o-9')]);
    assert.deepEqual(ann2, [{ id: 'o-9', total: 12.5 }]);
    assert.deepEqual(bob, [...four(shipped('o-2')), order('o-2', 'PAID'), shipped('o-8'), shipped('o-9')]);
    const bobs = [...four('o-2'), 'o-2', 'o-8', 'o-9'].map((id) => ({ id, customerId: 'bob', total: 80 }));
    assert.deepEqual(support, bobs);
    assert.deepEqual(mallory, []);
  });
});

describe('examples/chat', options, () => {
  const chat = new Example('chat');
  before(() => chat.start());
  after(() => chat.stop());

  it('tells a room its messages', async () => {
    const query = 'subscription ($after: String) { messagePosted(after: $after) { room author text } }';
    const tea = await chat.watch({ sub: 'bob', rooms: ['tea'] }, query);
    const ops = await chat.stream({ sub: 'eve', rooms: ['ops'] }, query);
    await chat.publish('node', ['posted'], { change: { room: 'ops' } });
    await chat.publishAll(['posted']);
    await received(tea, 1, 2, 3, 4);
    // Events of one ordering key come in order: when the last is here, all others were dispatched.
    await chat.publish('python', ['posted'], { isStructured: true, change: { room: 'ops' } });
    await received(ops, 1, 2);
    const message = (room) => ({ room, author: 'ann', text: 'The water boils.' });
    assert.deepEqual(tea, Array(4).fill(message('tea')));
    assert.deepEqual(ops, Array(2).fill(message('ops')));
  });
});

describe('examples/notifications', options, () => {
  const notifications = new Example('notifications');
  before(() => notifications.start());
  after(() => notifications.stop());

  it('tells users and teams of one tenant', async () => {
    const query = `subscription ($after: String) {
      notified(after: $after) { __typename title ... on Mention { url } ... on Announcement { body } } }`;
    const ann = await notifications.watch({ sub: 'ann', org_id: 'acme', teams: ['ops'] }, query);
    const bob = await notifications.watch({ sub: 'bob', org_id: 'acme', teams: ['ops'] }, query);
    const other = await notifications.stream({ sub: 'ann', org_id: 'other', teams: ['ops'] }, query);
    await notifications.publishAll(['mention', 'announcement']);
    await notifications.publish('node', ['mention', 'announcement'], { change: { tenantId: 'other' } });
    await received(other, 1, 2);
    await received(ann, 1, 2, 3, 4, 5, 6, 7, 8);
    await received(bob, 1, 2, 3, 4);
    const mention = { __typename: 'Mention', title: 'Bob names you', url: '/notes/7' };
    const announcement = { __typename: 'Announcement', title: 'Tea at four', body: 'Bring a cup.' };
    assert.deepEqual(ann, Array(4).fill([mention, announcement]).flat());
    assert.deepEqual(bob, Array(4).fill(announcement));
    assert.deepEqual(other, [mention, announcement]);
  });
});
