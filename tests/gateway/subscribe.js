// A real federated gateway before the relay: composes two pods as subgraphs, and subscribes and
// publishes through the gateway. README.md has the command and its last output.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { composeServices } from '@theguild/federation-composition';
import { parse } from 'graphql';
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

const path = (name) => fileURLToPath(new URL(name, import.meta.url));
const RELAY = process.env.RELAY_BINARY ?? path('../../target/debug/relay');
const { PUBSUB_EMULATOR_HOST } = process.env;
const PATIENCE = 60_000;

const folder = mkdtempSync(`${tmpdir()}/gateway-`);
const running = [];

async function eventually(what, ask) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    if (Date.now() > deadline) throw new Error(`not in time: ${what}`);
    await sleep(50);
  }
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** Starts a program, and waits until this path of its port answers. */
async function start(name, command, args, env, port, ready) {
  const child = spawn(command, args, { cwd: path('.'), env, stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (log += data));
  running.push(child);
  await eventually(`${name} is ready`, async () => {
    if (child.exitCode !== null) throw new Error(`${name} ended: ${log}`);
    return (await fetch(`http://127.0.0.1:${port}${ready}`).catch(() => null))?.ok;
  });
  return `http://127.0.0.1:${port}/graphql`;
}

/** Starts a pod of an example. */
async function pod(name, broker) {
  const port = await freePort();
  const schema = path(`../../examples/${name}/schema.graphql`);
  const env = { RELAY_LISTEN: `127.0.0.1:${port}`, RELAY_BROKER: broker, RELAY_DRAIN_DELAY: '0s' };
  if (PUBSUB_EMULATOR_HOST) env.PUBSUB_EMULATOR_HOST = PUBSUB_EMULATOR_HOST;
  const url = await start(name, RELAY, ['serve', '--schema', schema], env, port, '/readyz');
  return { name, url, process: running.at(-1) };
}

async function ask(url, token, query) {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
    body: JSON.stringify({ query }),
  });
  return response.json();
}

/** Returns the supergraph of these pods, made of what `_service` gives. */
async function compose(pods) {
  const services = await Promise.all(
    pods.map(async ({ name, url }) => {
      const { data } = await ask(url, 'composer', '{ _service { sdl } }');
      return { name, url, typeDefs: parse(data._service.sdl) };
    }),
  );
  const { supergraphSdl, errors } = composeServices(services);
  if (errors) throw new Error(errors.map((error) => error.message).join('\n'));
  const file = `${folder}/supergraph.graphql`;
  writeFileSync(file, supergraphSdl);
  return file;
}

/** Subscribes over WebSocket, and returns what arrives. */
function watch(url, token, query) {
  const seen = [];
  const client = createClient({
    url: url.replace('http', 'ws'),
    webSocketImpl: WebSocket,
    connectionParams: { authorization: `Bearer ${token}` },
    retryAttempts: 0,
  });
  client.subscribe({ query }, {
    next: (result) => seen.push(result),
    error: (error) => seen.push({ failed: error }),
    complete: () => seen.push('complete'),
  });
  client.on('closed', ({ code, reason }) => seen.push(`closed ${code} ${reason}`));
  return seen;
}

async function watchers(url) {
  const text = await (await fetch(url.replace('graphql', 'metrics'))).text();
  const lines = text.split('\n').filter((line) => /^relay_watchers[ {]/.test(line));
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0);
}

const show = (what, value) => console.log(`${what}: ${typeof value === 'string' ? value : JSON.stringify(value)}`);

/** Publishes one of the examples' events with their own publisher. */
async function publish(topic, project) {
  const args = ['publish.js', project, topic, 'orders/events/placed.json'];
  const env = { ...process.env, NODE_PATH: path('node_modules') };
  const publisher = spawn(process.execPath, args, { cwd: path('../../examples'), env, stdio: 'ignore' });
  const [code] = await once(publisher, 'exit');
  if (code !== 0) throw new Error('examples/publish.js failed');
}

async function main() {
  const bob = '{"sub":"bob","rooms":["tea"]}';
  const ann = '{"sub":"ann","rooms":["tea"]}';
  const gone = await pod('chat', 'memory:');
  const { extensions: past } = await ask(gone.url, bob, '{ messages(room: "tea") { id } }');
  gone.process.kill('SIGKILL');
  const project = `gateway-${process.pid}`;
  const orders = await pod('orders', PUBSUB_EMULATOR_HOST ? `pubsub://${project}/orders` : 'memory:');
  const chat = await pod('chat', 'memory:');
  show('subgraphs', [orders.name, chat.name].join(', '));
  const supergraph = await compose([orders, chat]);
  const port = await freePort();
  const args = ['supergraph', '--port', `${port}`, '--host', '127.0.0.1', '--config-path', path('gateway.config.js')];
  const env = { PATH: process.env.PATH, SUPERGRAPH: supergraph };
  const gateway = await start('gateway', path('node_modules/.bin/hive-gateway'), args, env, port, '/readiness');
  show('gateway', 'ready');

  const message = 'subscription { messagePosted { room author text } }';
  const order = 'subscription { orderUpdated(status: [PLACED]) { id customerId total } }';
  const [direct, heard] = [watch(chat.url, bob, message), watch(gateway, bob, message)];
  const mine = watch(gateway, ann, order);
  const theirs = watch(gateway, bob, order);
  await eventually('watchers of messages', async () => (await watchers(chat.url)) === 2);
  await eventually('watchers of orders', async () => (await watchers(orders.url)) === 2);
  show('subscribed through the gateway', 'messagePosted, and orderUpdated by ann and by bob');

  const post = 'mutation { postMessage(room: "tea", text: "Hello") { author text } }';
  show('mutation through the gateway', (await ask(gateway, ann, post)).data);
  const eve = await ask(gateway, '{"sub":"eve"}', post);
  show('the same without the room', eve.errors.map((error) => error.extensions?.code ?? error.message).join());
  await eventually('the message', () => heard.length > 0 && direct.length > 0);
  show('result without the gateway', direct[0]);
  show('result through the gateway', heard[0]);
  if (PUBSUB_EMULATOR_HOST) {
    await publish('orders', project);
    await eventually('the order', () => mine.length > 0);
    show('order through the gateway, to ann', mine[0]);
    await sleep(500);
    show('to bob', theirs.length === 0 ? 'nothing' : theirs);
  }
  const { cursor } = direct[0].extensions;
  const again = watch(gateway, bob, `subscription { messagePosted(after: "${cursor}") { text } }`);
  await eventually('the message again', () => again.length > 0);
  show('resumed with a cursor of the relay', again[0]);
  for (const [what, after] of [['a cursor that is too old', past.cursor], ['a wrong cursor', 'old']]) {
    const query = `subscription { messagePosted(after: "${after}") { text } }`;
    const [plain, through] = [watch(chat.url, bob, query), watch(gateway, bob, query)];
    await eventually(what, () => plain.length > 0 && through.length > 0);
    show(`${what}, without the gateway`, plain[0]);
    show('the same through the gateway', through[0]);
  }

  chat.process.kill('SIGTERM');
  await eventually('the end', () => direct.length > 1 && heard.length > 1);
  show('end of the pod without the gateway', direct.slice(1));
  show('end of the pod through the gateway', heard.slice(1));
}

let code = 0;
await main().catch((error) => {
  console.error(error.message);
  code = 1;
});
running.forEach((child) => child.kill('SIGKILL'));
rmSync(folder, { recursive: true });
process.exit(code);
