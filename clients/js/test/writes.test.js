// Later requests carry the tokens of earlier writes, over every way that a request takes.

import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';

import { Writes } from 'pubsub-relay-client';
import { createRelayClient } from 'pubsub-relay-client/graphql-ws';
import WebSocket, { WebSocketServer } from 'ws';

const written = (token) => ({ data: {}, extensions: { cursor: 'c', eventId: token, written: token } });

/** Returns a fetch that keeps the header of each request and answers with the next of these results. */
function server(headers, ...results) {
  return async (_, init) => {
    headers.push(new Headers(init.headers).get('x-relay-read-after'));
    return Response.json(results.shift());
  };
}

it('fetch sends what earlier answers named', async () => {
  const [writes, headers] = [new Writes(), []];
  const bad = { errors: [{ message: 'bad', extensions: { code: 'BAD_READ_AFTER' } }] };
  const send = writes.fetch(server(headers, written('a'), written('b'), {}, bad, {}));
  const bodies = [];
  for (let n = 0; n < 5; n++) bodies.push(await (await send('http://localhost/graphql', { method: 'POST' })).json());
  assert.deepEqual(headers, [null, 'a', 'a,b', 'a,b', null], 'a token that is refused is forgotten');
  assert.deepEqual(bodies[0], written('a'), 'the caller reads the body as well');
});

it('keeps the latest eight writes', () => {
  const writes = new Writes();
  for (let n = 0; n < 10; n++) writes.note(written(String(n)));
  assert.deepEqual(writes.extend({ own: 1 }), { readAfter: [...'23456789'], own: 1 });
  assert.deepEqual(writes.extend({ readAfter: 'own' }), { readAfter: 'own' });
});

describe('a client over WebSocket', { timeout: 30_000 }, () => {
  const requests = [];
  const relay = new WebSocketServer({ port: 0, handleProtocols: () => 'graphql-transport-ws' });
  relay.on('connection', (socket) => {
    const send = (message) => socket.send(JSON.stringify(message));
    socket.on('message', (text) => {
      const { type, id, payload } = JSON.parse(text);
      if (type === 'connection_init') return send({ type: 'connection_ack', payload: { cursor: 'c' } });
      if (type !== 'subscribe') return;
      requests.push(payload.extensions?.readAfter ?? null);
      send({ type: 'next', id, payload: written(String(requests.length)) });
      send({ type: 'complete', id });
    });
  });
  after(() => relay.close());

  it('sends the tokens of its mutations, and shares them', async () => {
    const writes = new Writes();
    const options = { url: `ws://localhost:${relay.address().port}`, writes, webSocketImpl: WebSocket };
    const client = createRelayClient(options);
    for (let n = 0; n < 3; n++) for await (const _ of client.iterate({ query: 'mutation { a }' }));
    await client.dispose();
    assert.deepEqual(requests, [null, ['1'], ['1', '2']]);
    const headers = [];
    await writes.fetch(server(headers, {}))('http://localhost/graphql');
    assert.deepEqual(headers, ['1,2,3']);
  });
});
