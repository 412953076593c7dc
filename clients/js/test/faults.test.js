// What surrounds a client can be wrong: each fault is a typed error that says what to do.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { WebSocketServer } from 'ws';

import { Pod, eventually } from '../../../tests/clients/pod.js';
import { transports } from './transports.js';

describe('a client of the package', { timeout: 60_000 }, () => {
  let pod;
  before(async () => {
    pod = await Pod.start();
  });
  after(() => pod.stop());

  /** Starts a transport. Returns its errors, its warnings and its names. */
  function start(name, options) {
    const seen = { errors: [], warnings: [], names: [], states: [] };
    const end = transports[name]({
      url: `${pod.http}/graphql`,
      token: () => 'ZOLO',
      retryWait: () => sleep(50),
      onName: (name) => seen.names.push(name),
      onError: (error) => seen.errors.push(error.networkError ?? error),
      onWarning: (warning) => seen.warnings.push(warning),
      onState: (state) => seen.states.push(state),
      ...options,
    });
    return { ...seen, end };
  }

  for (const name of Object.keys(transports)) {
    it(`ends with TOKEN_FAILED over ${name} when its token function throws`, async () => {
      const { errors, states, end } = start(name, {
        token: () => {
          throw new Error('signed out');
        },
      });
      await eventually('an error', () => errors.length);
      await sleep(300);
      end();
      assert.deepEqual(errors.map(({ code }) => code), ['TOKEN_FAILED']);
      assert.match(errors[0].message, /signed out.*subscribe again/);
      assert.equal(states.at(-1), 'ended');
    });

    it(`warns once over ${name} when its store is full, and goes on`, async () => {
      const { errors, warnings, names, end } = start(name, {
        storage: {
          load: () => null,
          save() {
            throw new DOMException('quota exceeded', 'QuotaExceededError');
          },
          remove() {},
        },
      });
      await pod.untilWatchers(1);
      await pod.addTemplate('one');
      await pod.addTemplate('two');
      await eventually('both', () => names.length === 2);
      end();
      await pod.untilWatchers(0);
      assert.deepEqual([errors, warnings.map(({ code }) => code)], [[], ['STORAGE_FAILED']]);
    });
  }

  for (const name of ['graphql-ws', 'iterate', 'apollo', 'urql', 'relay']) {
    it(`ends with NOT_A_RELAY over ${name} when the server is none`, async () => {
      const server = new WebSocketServer({ port: 0, host: '127.0.0.1', handleProtocols: () => 'graphql-transport-ws' });
      await once(server, 'listening');
      server.on('connection', (socket) => socket.on('message', () => socket.send('{"type":"connection_ack"}')));
      const { errors, end } = start(name, { url: `http://127.0.0.1:${server.address().port}` });
      await eventually('an error', () => errors.length);
      await sleep(300);
      end();
      server.close();
      assert.deepEqual(errors.map(({ code }) => code), ['NOT_A_RELAY']);
    });
  }

  it('tries again, over every transport, when a server never answers', async () => {
    for (const name of Object.keys(transports)) {
      let connections = 0;
      const server = net.createServer((socket) => {
        connections += 1;
        socket.on('error', () => {});
      });
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      const { errors, end } = start(name, { url: `http://127.0.0.1:${server.address().port}/graphql`, patience: 200 });
      await eventually(`${name} has tried three times`, () => connections >= 3);
      end();
      server.close();
      assert.deepEqual(errors, [], name);
    }
  });

  it('passes the notice of a gap on when no function takes it', async () => {
    const { Subscription } = await import('../dist/subscription.js');
    const results = [];
    const sink = { next: (result) => results.push(result), error: assert.fail, complete: assert.fail };
    new Subscription({ query: 'q' }, sink, {}).next({ data: null, extensions: { gap: { reason: 'WHY' }, cursor: 'c' } });
    assert.equal(results[0].extensions.gap.reason, 'WHY');
  });

  it('drops no result that has no event id', async () => {
    const { Subscription } = await import('../dist/subscription.js');
    const results = [];
    const sink = { next: (result) => results.push(result), error: assert.fail, complete: assert.fail };
    const subscription = new Subscription({ query: 'q' }, sink, {});
    for (const result of [{ data: 1 }, { data: 1 }, { data: null, errors: [{ message: 'm' }] }]) subscription.next(result);
    assert.equal(results.length, 3);
  });
});

