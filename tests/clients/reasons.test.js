// Why a user got an event or not, as an operator reads it in the console: four processes on one topic, and a browser
// that can reach this machine and nothing else.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFile, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';

import WebSocket from 'ws';

import { inaccessible, launch, open, screenshot, skipped } from './browser.js';
import { Pod, bearer, eventually, freePort } from './pod.js';
import { watch } from './watch.js';

const { CI, PUBSUB_EMULATOR_HOST } = process.env;
const DOMAIN = path.resolve(import.meta.dirname, '../../src/domains');
const TOKEN = 'an-operators-token-of-more-than-32-bytes';
const ALL = 'subscription { templateAdded { id } }';
// Seven copies of the list: a result of 110 KB, whose event costs the brokers and pods little.
const LARGE = `subscription { templateAdded { ${[...'abcdefg'].map((key) => `${key}: shareLocationIds`).join(' ')} } }`;

const browser = await launch();
const skip = skipped(browser) || (!PUBSUB_EMULATOR_HOST && 'no emulator: PUBSUB_EMULATOR_HOST is not set');
if (skip && CI === 'true') throw new Error(skip);

/** Adds a template as ZOWI, who is at locations 1 and 2. */
async function add(pod, name, locations) {
  const query = `mutation ($input: AddTemplateInput!) { addTemplate(templateInput: $input) { success } }`;
  const answer = await fetch(`${pod.http}/graphql`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: bearer('ZOWI') },
    body: JSON.stringify({ query, variables: { input: { name, shareLocationIds: locations } } }),
  });
  const { data, errors, extensions } = await answer.json();
  assert.ok(data?.addTemplate?.success, JSON.stringify(errors));
  return extensions.eventId;
}

/** Subscribes as ZOLO at a pod, and then reads nothing more. */
async function fallAsleep(pod) {
  const before = await pod.metric('relay_watchers');
  const socket = new WebSocket(`ws://127.0.0.1:${pod.port}/graphql`, 'graphql-transport-ws');
  const send = (message) => socket.send(JSON.stringify(message));
  socket.on('open', () => send({ type: 'connection_init', payload: { Authorization: bearer('ZOLO') } }));
  socket.once('message', () => send({ id: '1', type: 'subscribe', payload: { query: LARGE } }));
  await pod.untilWatchers(before + 1);
  socket.pause();
  return socket;
}

describe('the console of four processes', { skip, timeout: 300_000 }, () => {
  const schema = path.join(tmpdir(), `relay-${randomUUID()}.graphql`);
  const clients = [];
  let pods;
  before(async () => {
    const file = await readFile(path.join(DOMAIN, 'tutorial.graphql'), 'utf8');
    await writeFile(schema, file.replace('templateAdded: Template', 'templateAdded(name: String @filter): Template'));
    const settings = {
      PUBSUB_EMULATOR_HOST,
      RELAY_BROKER: `pubsub://reasons-${randomUUID()}/events`,
      RELAY_SCHEMA: schema,
      RELAY_DIRECTORY: path.join(DOMAIN, 'tutorial/directory.json'),
      RELAY_CONTROL_SECRET: 'a-control-secret-of-more-than-32-bytes',
      RELAY_DEBUG_TOKEN: TOKEN,
      RELAY_HEARTBEAT_INTERVAL: '1s',
      RELAY_USER_EVENT_RATE: 'off',
      RELAY_USER_EVENT_BYTES: 'off',
      RELAY_QUEUE_BYTES: '128KiB',
    };
    const start = async (n) =>
      Pod.start({
        ...settings,
        RELAY_POD: `pod-${n}`,
        RELAY_ADMIN_LISTEN: `127.0.0.1:${await freePort()}`,
        // A few large events exceed the window of one of them.
        ...(n === 2 && { RELAY_REPLAY_BYTES: '1MiB' }),
      });
    pods = await Promise.all([1, 2, 3, 4].map(start));
  });
  after(async () => {
    clients.forEach((client) => client.dispose?.() ?? client.terminate());
    pods?.forEach((pod) => pod.stop());
    await unlink(schema).catch(() => {});
    await browser?.close();
  });

  it('gives each reason in words', async () => {
    const page = await open(browser, `http://${pods[0].admin}/console#token=${TOKEN}`);
    for (const n of [1, 2, 3, 4]) await page.locator('#pods li.ready', { hasText: `pod-${n}` }).waitFor();
    /** Returns what each pod says, in the order of the pods. */
    const explain = async (event, user) => {
      await page.getByLabel('Event id').fill(event);
      await page.getByLabel('User (id').fill(user);
      await page.getByRole('button', { name: 'Explain' }).click();
      await page.locator('#answers li').nth(3).waitFor();
      return page.locator('#answers li').allTextContents();
    };
    const began = Date.now();
    const zolo = await watch(pods[1], 'ZOLO', ALL);
    const zewi = await watch(pods[2], 'ZEWI', ALL);
    clients.push(zolo, zewi, await watch(pods[0], 'ZELO', ALL));
    clients.push(await watch(pods[3], 'ZOLO', 'subscription { templateAdded(name: "another") { id } }'));
    await zewi.dispose();
    await pods[2].untilWatchers(0);
    const event = await add(pods[0], 'story', ['3']);
    await eventually('ZOLO has the event', () => zolo.results.length === 1);

    const told = await explain(event, 'ZOLO');
    assert.match(told[1], /^pod-2 gave the event to the user at \d{4}-\d\d-\d\dT[\d:.]+Z\.$/);
    assert.match(told[3], /^pod-4 had a subscription of the user, which selects other events/);
    for (const n of [0, 2]) assert.equal(told[n], `pod-${n + 1} had no subscription of the user lately.`);
    const [author, stranger] = [await explain(event, 'ZOWI'), await explain(event, 'ZELO')];
    for (const n of [0, 1, 2, 3]) {
      assert.equal(author[n], `pod-${n + 1} left the user out: the user is the author of the event.`);
      assert.equal(stranger[n], `pod-${n + 1} left the user out: the user listens to none of the event's keys.`);
    }
    const left = await explain(event, 'ZEWI');
    const [, ended] = left[2].match(
      /^pod-3 had no subscription of the user: the last connection ended at (\S+), because the client left\.$/,
    );
    assert.ok(Date.parse(ended) >= began && Date.parse(ended) <= Date.now(), ended);

    clients.push(await watch(pods[3], 'ZEWI', `subscription { templateAdded(after: "${zewi.cursor}") { id } }`));
    await eventually('ZEWI has the event', () => clients.at(-1).results.length === 1);
    const resumed = await explain(event, 'ZEWI');
    assert.match(resumed[2], /because the client left; the client resumed on pod-4 at \S+Z\.$/);
    assert.match(resumed[3], /^pod-4 gave the event to the user at /);
    assert.deepEqual(await inaccessible(page), []);
    await screenshot(page, 'console-reasons', { fullPage: true });

    const locations = Array.from({ length: 249 }, (_, n) => `${n}`.padEnd(60, '-')).concat('3');
    const full = async () => {
      const asked = await fetch(`http://${pods[2].admin}/debug/events?limit=200`, {
        headers: { authorization: bearer(TOKEN) },
      });
      return (await asked.json()).events.find((row) => row.queue_full === 1)?.event;
    };
    // At once: a queue that is only a little too long for a second ends its connection without an event, and
    // another client has to fall asleep. A busy broker may refuse some of them.
    const flood = () => Promise.allSettled(Array.from({ length: 20 }, () => add(pods[0], 'large', locations)));
    let large;
    for (let n = 0; n < 60 && !large; n += 1) {
      if ((await pods[2].metric('relay_watchers')) === 0) clients.push(await fallAsleep(pods[2]));
      await flood();
      large = await full();
    }
    assert.ok(large, 'an event has filled the queue of a client that sleeps');
    assert.match((await explain(large, 'ZOLO'))[2], /^pod-3 ended the user's connection, since its send queue was full/);

    const late = await watch(pods[1], 'ZEWI', `subscription { templateAdded(after: "${zewi.cursor}") { id } }`);
    clients.push(late);
    await eventually('ZEWI has a gap notice', () => late.results[0]?.extensions?.gap);
    const gap = await explain(event, 'ZEWI');
    assert.match(gap[1], /^pod-2 gave the user a gap notice instead \(WINDOW_EXCEEDED\) at \S+Z\.$/);

    await page.getByLabel('User (id').fill('ZORRO');
    await page.getByRole('button', { name: 'Explain' }).click();
    await page.getByText('There is no such user.').waitFor();
    assert.deepEqual(page.faults, []);
    await page.close();
  });
});
