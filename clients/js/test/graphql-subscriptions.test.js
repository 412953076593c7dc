// The engine for graphql-subscriptions: the server of docs/MIGRATE.md, unchanged but for its
// constructor, serves its old clients and publishes to the topic of a relay.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { PubSub, PubSubEngine } from 'graphql-subscriptions';
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

import { RelayPubSub } from 'pubsub-relay-client/graphql-subscriptions';

import { Pod, eventually, freePort } from '../../../tests/clients/pod.js';

const { PATH, PUBSUB_EMULATOR_HOST } = process.env;
const root = fileURLToPath(new URL('..', import.meta.url));
const skip = PUBSUB_EMULATOR_HOST ? false : 'no emulator: PUBSUB_EMULATOR_HOST is not set';
if (skip && process.env.CI === 'true') throw new Error(skip);

describe('the server of docs/MIGRATE.md', { skip, timeout: 60_000 }, () => {
  const ends = [];
  after(() => ends.reverse().forEach((end) => end()));

  /** Returns a client's way to subscribe and to mutate. */
  function client(url, claims) {
    const token = JSON.stringify(claims);
    const connectionParams = { token: url.includes('/relay') ? `Bearer ${token}` : token };
    const client = createClient({ url: url.replace('/relay', ''), connectionParams, webSocketImpl: WebSocket });
    ends.push(() => client.dispose());
    const seen = [];
    const sink = { next: ({ data, errors }) => seen.push(errors ?? data.ticketChanged), error: (error) => seen.push(error), complete() {} };
    return {
      seen,
      watch: () => client.subscribe({ query: 'subscription { ticketChanged { id title changedBy } }' }, sink),
      change: (title) =>
        new Promise((next, error) => {
          const query = 'mutation ($title: String!) { changeTicket(id: "t-1", teamId: "print", title: $title) { title } }';
          client.subscribe({ query, variables: { title } }, { next, error, complete() {} });
        }),
    };
  }

  it('serves old clients as before, and publishes to the relay', async () => {
    const page = readFileSync(`${root}../../docs/MIGRATE.md`, 'utf8');
    const [old, constructor] = [...page.matchAll(/```js\n([^]*?)```/g)].map(([, code]) => code);
    const server = old.replace('const pubsub = new PubSub();\n', constructor);
    assert.notEqual(server, old);
    const folder = mkdtempSync(path.join(tmpdir(), 'relay-migrate-'));
    ends.push(() => rmSync(folder, { recursive: true }));
    writeFileSync(`${folder}/schema.graphql`, page.match(/```graphql\n([^]*?)```/)[1]);
    const project = `migrate-${randomUUID().slice(0, 13)}`;
    const pod = await Pod.start({
      PUBSUB_EMULATOR_HOST,
      RELAY_BROKER: `pubsub://${project}/tickets`,
      RELAY_SCHEMA: `${folder}/schema.graphql`,
    });
    ends.push(() => pod.stop());
    const port = await freePort();
    const env = { PATH, PORT: port, PUBSUB_EMULATOR_HOST, GOOGLE_CLOUD_PROJECT: project };
    const node = spawn(process.execPath, ['--input-type=module', '--eval', server], { cwd: root, env, stdio: 'inherit' });
    ends.push(() => node.kill());
    await eventually('the server listens', () => fetch(`http://127.0.0.1:${port}`).catch(() => null));

    const [print, web] = [{ sub: 'ann', teams: ['print'] }, { sub: 'eve', teams: ['web'] }];
    const addresses = { old: `ws://127.0.0.1:${port}/graphql`, relay: `ws://127.0.0.1:${pod.port}/graphql/relay` };
    const clients = Object.values(addresses).flatMap((url) => [client(url, print), client(url, web)]);
    clients.forEach((client) => client.watch());
    await pod.untilWatchers(2);
    await sleep(300); // the old server has no count of its subscriptions

    const bob = client(addresses.old, { sub: 'bob', teams: [] });
    assert.equal((await bob.change('first')).data.changeTicket.title, 'first');
    await bob.change('second');
    const [oldPrint, , relayPrint] = clients;
    for (const { seen } of [oldPrint, relayPrint]) await eventually(`two in ${JSON.stringify(seen)}`, () => seen.length === 2);
    const both = ['first', 'second'].map((title) => ({ id: 't-1', title, changedBy: 'bob' }));
    assert.deepEqual(clients.map(({ seen }) => seen), [both, [], both, []]);
  });
});

describe('the engine', () => {
  /** Returns an engine on a topic that keeps its messages, and what the engine reports. */
  function engine({ fails = false, ...options } = {}) {
    const [messages, resumed, errors] = [[], [], []];
    const topic = {
      async publishMessage({ data, ...message }) {
        if (fails) throw new Error('no permission');
        messages.push({ ...message, data: JSON.parse(new TextDecoder().decode(data)) });
      },
      resumePublishing: (key) => resumed.push(key),
    };
    const events = { ADDED: 'thing.added.v1', LOCAL: null };
    const onError = (error) => errors.push(error);
    return { messages, resumed, errors, pubsub: new RelayPubSub({ topic, source: '//test', events, onError, ...options }) };
  }

  it('publishes the only field of the payload as an event', async () => {
    const { messages, pubsub } = engine();
    await pubsub.publish('ADDED', { thingAdded: { id: 7, at: new Date(0) } });
    const [{ attributes, ...message }] = messages;
    assert.deepEqual(message, { data: { id: 7, at: '1970-01-01T00:00:00.000Z' }, orderingKey: '7' });
    const { 'ce-id': id, ...rest } = attributes;
    assert.match(id, /^[0-9a-f-]{36}$/);
    assert.deepEqual(rest, {
      'ce-specversion': '1.0',
      'ce-source': '//test',
      'ce-type': 'thing.added.v1',
      'content-type': 'application/json',
    });
  });

  it('takes data, author, key and id from a function', async () => {
    const events = (trigger, payload) => ({
      type: trigger.replace(/_.*/, ''),
      data: payload.b,
      author: payload.by,
      orderingKey: 'k',
      id: 'e-1',
    });
    const { messages, pubsub } = engine({ events });
    await pubsub.publish('THING_7', { a: 1, b: [2], by: 'ann' });
    const [{ attributes, data, orderingKey }] = messages;
    const { 'ce-author': author, 'ce-id': id, 'ce-type': type } = attributes;
    assert.deepEqual({ author, id, type, data, orderingKey }, { author: 'ann', id: 'e-1', type: 'THING', data: [2], orderingKey: 'k' });
  });

  it('keeps a trigger without an event in the local engine', async () => {
    const { messages, pubsub } = engine();
    const results = pubsub.asyncIterableIterator(['LOCAL', 'ADDED']);
    const first = results.next();
    await pubsub.publish('LOCAL', { a: 1 });
    assert.deepEqual([messages, (await first).value], [[], { a: 1 }]);
    const second = results.next();
    await pubsub.publish('ADDED', { thingAdded: { id: 1 } });
    assert.deepEqual((await second).value, { thingAdded: { id: 1 } });
    await results.return();
  });

  it('leaves subscriptions to an engine of any kind', async () => {
    class Other extends PubSubEngine {
      calls = [];
      async publish(...values) {
        this.calls.push(['publish', ...values]);
      }
      async subscribe(trigger) {
        return this.calls.push(['subscribe', trigger]);
      }
      unsubscribe(id) {
        this.calls.push(['unsubscribe', id]);
      }
    }
    const local = new Other();
    const { pubsub } = engine({ local });
    assert(pubsub instanceof PubSubEngine);
    const id = await pubsub.subscribe('ADDED', () => {}, {});
    await pubsub.publish('ADDED', { id: 1 });
    pubsub.unsubscribe(id);
    assert.deepEqual(local.calls, [['subscribe', 'ADDED'], ['publish', 'ADDED', { id: 1 }], ['unsubscribe', 1]]);
  });

  it('rejects what the topic does not take, and tells no local subscriber', async () => {
    const local = new PubSub();
    const { pubsub, resumed, errors } = engine({ fails: true, local });
    const heard = [];
    await local.subscribe('ADDED', (payload) => heard.push(payload));
    await assert.rejects(pubsub.publish('ADDED', { thingAdded: { id: 1 } }), { code: 'PUBLISH_FAILED', message: /no permission/ });
    assert.deepEqual([resumed, heard, errors.length], [['1'], [], 1]);
  });

  it('reports an error that nothing awaits, and the process goes on', async () => {
    const { pubsub, errors } = engine({ fails: true });
    const unhandled = [];
    const note = (error) => unhandled.push(error);
    process.on('unhandledRejection', note);
    void pubsub.publish('ADDED', { thingAdded: { id: 1 } });
    await sleep(50);
    process.off('unhandledRejection', note);
    assert.deepEqual([unhandled, errors.map(({ code }) => code)], [[], ['PUBLISH_FAILED']]);
  });

  it('rejects an unknown trigger and a payload that is no JSON', async () => {
    const { pubsub, messages } = engine({ events: { ADDED: 't', THROWS: (payload) => payload.a.b } });
    await assert.rejects(pubsub.publish('toString', { a: 1 }), { code: 'UNKNOWN_TRIGGER', message: /toString/ });
    await assert.rejects(pubsub.publish('ADDED', { a: 1n }), { code: 'BAD_PAYLOAD' });
    await assert.rejects(pubsub.publish('ADDED', undefined), { code: 'BAD_PAYLOAD' });
    await assert.rejects(pubsub.publish('THROWS', {}), { code: 'BAD_PAYLOAD' });
    assert.deepEqual(messages, []);
  });
});
