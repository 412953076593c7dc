// A network that swallows everything without a word: the recipes of docs/RESUME.md notice it within
// 60 s and miss nothing.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import WebSocket from 'ws';

import { Pod, eventually } from './pod.js';

/** In milliseconds: the time after which a pod, too, gives up a silent peer. */
const LIMIT = 60_000;

describe('a client behind a silent network', { timeout: 120_000 }, () => {
  const lines = [];
  let pod;
  let server;
  before(async () => {
    pod = await Pod.start();
    server = net.createServer((client) => {
      const line = { isDead: false };
      lines.push(line);
      const target = net.connect(pod.port, '127.0.0.1');
      for (const [from, to] of [
        [client, target],
        [target, client],
      ]) {
        from.on('error', () => {});
        from.on('data', (data) => line.isDead || to.write(data));
        // An end is swallowed as well.
        from.on('close', () => line.isDead || to.destroy());
      }
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
  });
  after(() => {
    server.close();
    pod.stop();
  });

  it('is back within 60 s and misses nothing', async () => {
    const received = {};
    const ends = [];
    for (const name of ['graphql-ws', 'apollo', 'urql', 'eventsource']) {
      received[name] = [];
      const { watch } = await import(`./recipes/${name}.js`);
      const scheme = name === 'eventsource' ? 'http' : 'ws';
      const end = await watch({
        url: `${scheme}://127.0.0.1:${server.address().port}/graphql`,
        token: async () => 'ZOLO',
        onTemplate: (template) => received[name].push(template.name),
        onGap: () => received[name].push('gap'),
        ...(scheme === 'ws' && { webSocketImpl: WebSocket }),
      });
      ends.push(end);
    }
    await pod.untilWatchers(4);
    await pod.addTemplate('before');
    const all = (name) => Object.values(received).every((names) => names.includes(name));
    await eventually('all have the first event', () => all('before'));
    lines.forEach((line) => (line.isDead = true));
    await pod.addTemplate('during');
    const limit = Date.now() + LIMIT;
    while (!all('during') && Date.now() < limit) await sleep(100);
    await pod.addTemplate('after');
    await sleep(1_000);
    ends.forEach((end) => end());
    for (const [name, names] of Object.entries(received)) {
      assert.deepEqual(names, ['before', 'during', 'after'], name);
    }
  });
});
