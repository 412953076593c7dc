// Pods for the clients: the real `relay` with its in-memory broker, and a balancer in front of it.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const RELAY = process.env.RELAY_BINARY;
const PATIENCE = 30_000;

export const bearer = (user) => `Bearer ${user}`;

/** Calls `ask` every 20 ms until it returns a true value. Throws after 30 s. */
export async function eventually(what, ask) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    if (Date.now() > deadline) throw new Error(`not in time: ${what}`);
    await sleep(20);
  }
}

/** Adds a template as ZOWI for location 3, where ZOLO is. */
export async function addTemplate(http, name) {
  const query = `mutation ($name: String!) {
    addTemplate(templateInput: { name: $name, shareLocationIds: ["3"] }) { success }
  }`;
  const response = await fetch(`${http}/graphql`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: bearer('ZOWI') },
    body: JSON.stringify({ query, variables: { name } }),
  });
  const { data, errors } = await response.json();
  if (!data?.addTemplate?.success) throw new Error(JSON.stringify(errors));
}

export class Pod {
  static async start(settings = {}) {
    if (!RELAY) throw new Error('RELAY_BINARY names no relay: run these tests by `cargo test --test clients`');
    const pod = new Pod();
    pod.port = await freePort();
    const env = { RELAY_LISTEN: `127.0.0.1:${pod.port}`, ...settings };
    pod.admin = settings.RELAY_ADMIN_LISTEN;
    pod.process = spawn(RELAY, [], { env, stdio: ['ignore', 'ignore', 'pipe'] });
    pod.log = '';
    pod.process.stderr.on('data', (data) => (pod.log += data));
    pod.process.on('exit', () => (pod.ended = true));
    await eventually('the pod is ready', async () => {
      if (pod.ended) throw new Error(`the pod ended: ${pod.log}`);
      const answer = await fetch(`${pod.probes}/readyz`).catch(() => null);
      return answer?.ok;
    });
    return pod;
  }

  get http() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Returns where its probes and metrics are. */
  get probes() {
    return this.admin ? `http://${this.admin}` : this.http;
  }

  /** Returns the sum of a metric over all its labels. */
  async metric(name) {
    const text = await (await fetch(`${this.probes}/metrics`)).text();
    const lines = text.split('\n').filter((line) => line.startsWith(name) && ' {'.includes(line[name.length]));
    return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0);
  }

  async untilWatchers(count) {
    await eventually(`${count} watchers`, async () => (await this.metric('relay_watchers')) === count);
  }

  addTemplate(name) {
    return addTemplate(this.http, name);
  }

  /** Stops the pod as Kubernetes does, and waits until it is gone. */
  async drain() {
    this.process.kill('SIGTERM');
    if (!this.ended) await once(this.process, 'exit');
  }

  stop() {
    this.process.kill('SIGKILL');
  }
}

/** Four pods in one process, as `relay cluster` runs them; their topic is the emulator's if there is one. */
export class Cluster {
  static async start(settings = {}, flags = []) {
    const cluster = new Cluster();
    cluster.ports = await freePorts(8);
    const { PATH, JAVA_HOME, CLOUDSDK_ROOT_DIR, PUBSUB_EMULATOR_HOST } = process.env;
    const env = { PATH, JAVA_HOME, CLOUDSDK_ROOT_DIR, PUBSUB_EMULATOR_HOST, ...settings };
    const present = Object.fromEntries(Object.entries(env).filter(([, value]) => value));
    cluster.process = spawn(RELAY, ['cluster', '--port', `${cluster.ports[0]}`, ...flags], {
      env: present,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    cluster.log = '';
    for (const output of [cluster.process.stdout, cluster.process.stderr])
      output.on('data', (data) => (cluster.log += data));
    cluster.process.on('exit', () => (cluster.ended = true));
    await eventually('the cluster is ready', () => {
      if (cluster.ended) throw new Error(`the cluster ended: ${cluster.log}`);
      return cluster.log.includes('Watch as ZOLO');
    });
    return cluster;
  }

  get http() {
    return `http://127.0.0.1:${this.ports[0]}`;
  }

  /** Returns the addresses of all its pods, the deaf ones included. */
  get hosts() {
    return this.ports.map((port) => `127.0.0.1:${port}`);
  }

  /** Stops it as a terminal does, and waits until it is gone. */
  async stop() {
    this.process.kill('SIGINT');
    if (!this.ended) await once(this.process, 'exit');
  }
}

/** One address in front of the current pod. While there is none, it refuses. */
export class Balancer {
  static async start(pod) {
    const balancer = new Balancer();
    balancer.pod = pod;
    balancer.sockets = new Set();
    balancer.server = net.createServer((client) => {
      if (!balancer.pod) return client.destroy();
      const server = net.connect(balancer.pod.port, '127.0.0.1');
      for (const [from, to] of [
        [client, server],
        [server, client],
      ]) {
        balancer.sockets.add(from);
        from.on('error', () => to.destroy());
        from.on('close', () => balancer.sockets.delete(from) && to.destroy());
        from.pipe(to);
      }
    });
    balancer.server.listen(0, '127.0.0.1');
    await once(balancer.server, 'listening');
    return balancer;
  }

  get http() {
    return `http://127.0.0.1:${this.server.address().port}`;
  }

  /** Cuts all connections. */
  cut() {
    this.sockets.forEach((socket) => socket.destroy());
  }

  /** Makes all connections swallow everything without a word, ends included. New ones work. */
  swallow() {
    this.sockets.forEach((socket) => socket.unpipe().resume());
    this.sockets.clear();
  }

  stop() {
    this.server.close();
  }
}

export async function freePort() {
  return (await freePorts(1))[0];
}

/** Ports that each process of tests has for itself, so that files may run side by side. */
const PORTS = 100;
let given = 0;

/**
 * Returns free ports that follow one another. They are below those that the system gives to outgoing
 * connections, one of which could take a port before its pod does.
 */
export async function freePorts(count) {
  for (;;) {
    if (given + count > PORTS) given = 0;
    const first = 20_000 + (process.pid % 100) * PORTS + given;
    given += count;
    const ports = Array.from({ length: count }, (_, n) => first + n);
    const free = await Promise.all(ports.map(isFree));
    if (free.every(Boolean)) return ports;
  }
}

function isFree(port) {
  return new Promise((done) => {
    const server = net.createServer().once('error', () => done(false));
    server.listen(port, '127.0.0.1', () => server.close(() => done(true)));
  });
}
