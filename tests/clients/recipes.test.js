// What the recipes of docs/RESUME.md must never do: fail without a word, or try for ever in vain.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

import { Pod, bearer, eventually } from './pod.js';
import { persistent, resuming } from './recipes/resuming.js';

const query = 'subscription Watch($after: String) { templateAdded(after: $after) { name } }';

/** Client whose server is the test. */
function fake() {
  const client = { on() {}, terminate() {}, subscribe: (operation, sink) => Object.assign(client, { operation, sink }) };
  return client;
}

describe('a recipe', { timeout: 60_000 }, () => {
  let pod;
  before(async () => {
    pod = await Pod.start();
  });
  after(() => pod.stop());

  for (const name of ['graphql-ws', 'apollo', 'urql', 'eventsource']) {
    it(`${name} prints that a token was refused, and ends`, async (context) => {
      const printed = context.mock.method(console, 'error', () => {});
      const { watch } = await import(`./recipes/${name}.js`);
      const before = await pod.metric('relay_auth_failures_total');
      await watch({
        url: name === 'eventsource' ? `${pod.http}/graphql` : `${pod.http.replace('http', 'ws')}/graphql`,
        token: async () => 'NO_USER',
        onTemplate: () => assert.fail('an event without a viewer'),
        onGap: () => assert.fail('a gap without a viewer'),
        ...(name !== 'eventsource' && { webSocketImpl: WebSocket }),
      });
      await eventually('an error is printed', () => printed.mock.callCount());
      await sleep(4_000);
      assert.equal((await pod.metric('relay_auth_failures_total')) - before, 1, 'it does not try again');
    });
  }

  it('goes on with iterate() where it was', async () => {
    const client = createClient({
      url: `${pod.http.replace('http', 'ws')}/graphql`,
      webSocketImpl: WebSocket,
      connectionParams: { token: bearer('ZOLO') },
      ...persistent,
    });
    const events = resuming(client, assert.fail).iterate({ query });
    const next = async () => (await events.next()).value.data.templateAdded.name;
    await pod.untilWatchers(1);
    await pod.addTemplate('first');
    assert.equal(await next(), 'first');
    client.terminate();
    await pod.untilWatchers(0);
    await pod.addTemplate('missed');
    assert.equal(await next(), 'missed');
    const waiting = events.next();
    await events.return();
    assert.equal((await waiting).done, true, 'a call that waits ends as well');
    await pod.untilWatchers(0);
  });

  it('ends iterate() with the error of its subscription', async () => {
    const inner = fake();
    const events = resuming(inner).iterate({ query });
    inner.sink.error(new Error('refused'));
    await assert.rejects(events.next(), /refused/);
  });

  it('passes on a result without extensions', () => {
    const inner = fake();
    const results = [];
    resuming(inner).subscribe({ query }, { next: (result) => results.push(result) });
    for (const result of [{ data: 1 }, { data: 1 }, { errors: [{}], extensions: {} }]) inner.sink.next(result);
    assert.equal(results.length, 3);
  });
});
