// The recipes of docs/RESUME.md: the documented code is the code that runs here.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import WebSocket from 'ws';

import { freePorts } from './pod.js';

const PATIENCE = 30_000;
const document = readFileSync(new URL('../../docs/RESUME.md', import.meta.url), 'utf8');

async function eventually(what, ask) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    if (Date.now() > deadline) throw new Error(`not in time: ${what()}`);
    await sleep(20);
  }
}

/** Two pods on one topic, and one address in front of them that can be cut. */
class Cluster {
  async start() {
    this.ports = await freePorts(2);
    const env = { PATH: process.env.PATH, ...pick('PUBSUB_EMULATOR_HOST', 'CLOUDSDK_ROOT_DIR', 'JAVA_HOME') };
    const { RELAY_TEST_BROKER } = process.env;
    const broker = RELAY_TEST_BROKER ? ['--broker', `${RELAY_TEST_BROKER}:`] : [];
    const args = ['cluster', '--pods', '2', '--port', `${this.ports[0]}`, ...broker];
    this.relay = spawn(process.env.RELAY_BINARY, args, { env, stdio: ['ignore', 'ignore', 'inherit'] });
    for (const port of this.ports) {
      await eventually(
        () => `pod at ${port}`,
        async () => (await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => null))?.ok,
      );
    }
    this.sockets = new Set();
    this.server = net.createServer((client) => this.lead(client)).listen(0, '127.0.0.1');
    await once(this.server, 'listening');
    this.isOpen = true;
  }

  lead(client) {
    if (!this.isOpen) return client.destroy();
    const pod = net.connect(this.ports[0], '127.0.0.1');
    for (const [from, to] of [
      [client, pod],
      [pod, client],
    ]) {
      this.sockets.add(from);
      from.on('error', () => {}).on('close', () => to.destroy());
      from.pipe(to);
    }
  }

  /** Cuts all connections. Once opened again, the address leads to the other pod. */
  close() {
    this.isOpen = false;
    this.sockets.forEach((socket) => socket.destroy());
    this.ports.reverse();
  }

  open() {
    this.isOpen = true;
  }

  async stop() {
    this.server.close();
    this.close();
    this.relay.kill('SIGTERM');
    await once(this.relay, 'exit');
  }

  /** Adds a template as ZOWI for location 3, where ZOLO is, on a pod directly. */
  async add(name) {
    const query = `mutation { addTemplate(templateInput: { name: "${name}", shareLocationIds: ["3"] }) { success } }`;
    const response = await fetch(`http://127.0.0.1:${this.ports[0]}/graphql`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: 'Bearer ZOWI' },
      body: JSON.stringify({ query }),
    });
    assert.equal((await response.json()).data?.addTemplate.success, true);
  }

  async watchers() {
    const texts = await Promise.all(
      this.ports.map(async (port) => (await fetch(`http://127.0.0.1:${port}/metrics`)).text()),
    );
    return texts.join('\n').match(/^relay_watchers\S* [1-9]/gm)?.length ?? 0;
  }
}

function pick(...names) {
  const set = names.filter((name) => process.env[name]);
  return Object.fromEntries(set.map((name) => [name, process.env[name]]));
}

describe('a client that is cut off resumes on another pod', { timeout: 120_000 }, () => {
  const cluster = new Cluster();
  before(() => cluster.start());
  after(() => cluster.stop());

  for (const [name, scheme, options] of [
    ['graphql-ws', 'ws', { webSocketImpl: WebSocket }],
    ['apollo', 'ws', { webSocketImpl: WebSocket }],
    ['urql', 'ws', { webSocketImpl: WebSocket }],
    ['eventsource', 'http', {}],
  ]) {
    it(name, async () => {
      const { watch } = await import(`./recipes/${name}.js`);
      const received = [];
      const url = `${scheme}://127.0.0.1:${cluster.server.address().port}/graphql`;
      const end = await watch({
        url,
        token: async () => 'ZOLO',
        onTemplate: (template) => received.push(template.name),
        onGap: (gap) => received.push(gap),
        ...options,
      });
      try {
        await eventually(() => 'a watcher', () => cluster.watchers());
        // cut off before the first event, and again after it
        for (const turn of ['first', 'second']) {
          cluster.close();
          await eventually(() => 'no watcher is left', async () => !(await cluster.watchers()));
          await cluster.add(`${name} ${turn} away`);
          cluster.open();
          await eventually(() => `back, received ${received}`, () => received.includes(`${name} ${turn} away`));
          await cluster.add(`${name} ${turn} live`);
          await eventually(() => `live, received ${received}`, () => received.includes(`${name} ${turn} live`));
        }
        const expected = ['first away', 'first live', 'second away', 'second live'].map((what) => `${name} ${what}`);
        // events of the client before may come again within the margin
        assert.deepEqual(received.filter((what) => typeof what !== 'string' || what.startsWith(name)), expected);
      } finally {
        end();
      }
      await eventually(() => 'no watcher is left', async () => !(await cluster.watchers()));
    });
  }
});

describe('docs/RESUME.md', () => {
  for (const name of ['resuming', 'graphql-ws', 'apollo', 'urql', 'eventsource']) {
    it(`contains the recipe ${name} exactly as tested`, () => {
      const recipe = readFileSync(new URL(`recipes/${name}.js`, import.meta.url), 'utf8');
      assert.ok(document.includes(`\`\`\`js\n${recipe}\`\`\``), `recipes/${name}.js and its copy differ`);
    });
  }
});
