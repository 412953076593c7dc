// The console of a pod, as a person uses it: in a browser that can reach this machine and nothing
// else, at one of four pods with one topic.

import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { inaccessible, launch, open, screenshot, skipped, watchText } from './browser.js';
import { Balancer, Cluster, Pod, eventually } from './pod.js';
import { watch } from './watch.js';

const MARKUP = '<img src=x onerror=document.title="hacked">';
const NOTIFICATIONS = path.resolve(import.meta.dirname, '../../examples/notifications/schema.graphql');

const browser = await launch();
const skip = skipped(browser);

/** Starts four pods on one topic. The first has the console that is tested. */
async function startCluster(settings = {}) {
  const flags = ['--pods', '4', '--broker', 'memory:'];
  const fast = { RELAY_HEARTBEAT_INTERVAL: '1s', RELAY_USER_EVENT_RATE: 'off', RELAY_USER_EVENT_BYTES: 'off' };
  const cluster = await Cluster.start({ ...fast, ...settings }, flags);
  const [, admin, token] = cluster.log.match(/http:\/\/(\S+)\/console#token=(\S+)/);
  const pods = cluster.ports.slice(0, 4).map((port) => Object.assign(new Pod(), { port }));
  const [, adminToken] = cluster.log.match(/token that acts: +(\S+)/);
  return { admin, token, adminToken, pods, stop: () => cluster.stop() };
}

describe('the console', { skip, timeout: 300_000 }, () => {
  let cluster;
  const clients = [];
  before(async () => {
    cluster = await startCluster();
    for (const [pod, user] of [[0, 'ZOWI'], [0, 'ZOLO'], [0, 'ZELO'], [2, 'ZEWI']]) {
      clients.push(await watch(cluster.pods[pod], user));
    }
  });
  after(async () => {
    clients.forEach((client) => client.dispose());
    await cluster?.stop();
    await browser?.close();
  });

  for (const [width, height] of [[1280, 900], [390, 844]]) {
    it(`shows pods, an event, and why, ${width} px wide`, async () => {
      const { admin, token, pods } = cluster;
      const page = await open(browser, `http://${admin}/console#token=${token}`, { viewport: { width, height } });
      await page.getByText('live', { exact: true }).waitFor();
      assert.ok(!page.url().includes(token), 'the token leaves the address');
      for (const pod of ['pod-1', 'pod-2', 'pod-3', 'pod-4']) {
        await page.locator('#pods li.ready', { hasText: pod }).waitFor();
      }
      await page.getByLabel('Show names').check();
      await page.locator('#people tr', { hasText: /^4ws/ }).waitFor();
      await pods[1].addTemplate(`seen at ${width}`);
      const rows = page.locator('#event-list button');
      await eventually('the event is listed', async () => (await rows.count()) === (width === 1280 ? 1 : 2));
      const row = rows.first();
      await row.getByText('4: got it').waitFor();
      await row.getByText('3: author').waitFor();
      await row.getByText('1: no common key').waitFor();

      const latency = page.locator('#charts li', { hasText: 'Delivery latency' });
      const measured = await latency.filter({ hasText: /: median \d/ }).textContent();
      const [, median, slow] = measured.match(/median ([\d.]+) ms, 99th percentile ([\d.]+) ms/).map(Number);
      assert.ok(median <= slow && slow <= 5_000, measured);

      // By keyboard alone: the event, the user, and the answer of each pod.
      await row.focus();
      await page.keyboard.press('Enter');
      await page.keyboard.type('ZEWI');
      await page.keyboard.press('Enter');
      await page.getByText(/^pod-3 gave the event to the user at /).waitFor();
      await page.getByText('pod-1 had no subscription of the user lately.').waitFor();
      assert.equal(await page.locator('#answers li').count(), 4);

      assert.deepEqual(await inaccessible(page), []);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(overflow <= 0, `nothing is wider than the window: ${overflow} px`);
      await screenshot(page, `console-${width}`, { fullPage: true });
      assert.deepEqual(page.faults, []);
      await page.close();
    });
  }

  it('asks for the token, and says that a wrong one is wrong', async () => {
    const page = await open(browser, `http://${cluster.admin}/console#token=wrong`);
    await page.getByText('The pod refuses this token').waitFor();
    assert.deepEqual(await inaccessible(page), []);
    await screenshot(page, 'console-token', { fullPage: true });
    await page.getByLabel('Debug token').fill(cluster.token);
    await page.getByRole('button', { name: 'Open' }).click();
    await page.getByText('live', { exact: true }).waitFor();
    await page.close();
  });

  it('says that its pod is lost, and comes back by itself', async () => {
    const balancer = await Balancer.start({ port: Number(cluster.admin.split(':')[1]) });
    const page = await open(browser, `${balancer.http}/console#token=${cluster.token}`);
    await page.getByText('live', { exact: true }).waitFor();
    const pod = balancer.pod;
    balancer.pod = null;
    balancer.cut();
    await page.getByText(/^connection lost/).waitFor();
    balancer.pod = pod;
    await page.getByText('live', { exact: true }).waitFor();
    // The page connects again a second later.
    const wasLost = await watchText(page.locator('#state'), /^connection lost/);
    balancer.swallow();
    await wasLost();
    await page.getByText('live', { exact: true }).waitFor();
    await page.close();
    balancer.stop();
  });

  it('ends the connections of a user with the admin token only', async () => {
    const { admin, token, adminToken, pods } = cluster;
    clients.push(await watch(pods[3], 'ZEWI'));
    const page = await open(browser, `http://${admin}/console#token=${token}`);
    const end = async (key) => {
      await page.getByLabel('User id').fill('2');
      await page.getByLabel('Admin token').fill(key);
      await page.getByRole('button', { name: 'End', exact: true }).click();
    };
    await end(token);
    await page.getByText('Refused: the debug token may only read').waitFor();
    assert.equal(await pods[3].metric('relay_watchers'), 1);
    await end(adminToken);
    await page.getByText('The connections of 2 end on every pod.').waitFor();
    await pods[3].untilWatchers(0);
    await page.close();
  });

  it('publishes a test event that the domain can read', async () => {
    const { admin, token, adminToken } = cluster;
    const page = await open(browser, `http://${admin}/console#token=${token}`);
    const form = page.getByRole('form', { name: 'Publish a test event' });
    const publish = async (data) => {
      await form.getByLabel('Type').fill('template.added.v1');
      await form.getByLabel('Author').fill('1');
      await form.getByLabel('Data').fill(data);
      await form.getByRole('button', { name: 'Publish' }).click();
    };
    await publish('{}');
    await form.getByText('Give the admin token first.').waitFor();
    await page.getByLabel('Admin token').fill(adminToken);
    await publish('{"id": 1,}');
    await form.getByText('The data is not JSON').waitFor();
    await publish('{"id": "t"}');
    await form.getByText('Refused: ').waitFor();
    await publish('{"id": "t", "name": "by hand", "shareLocationIds": ["3"]}');
    await form.getByText('Published as ').waitFor();
    await page.getByLabel('User (id').fill('ZOLO');
    await page.getByRole('button', { name: 'Explain' }).click();
    await page.getByText(/^pod-1 gave the event to the user at /).waitFor();
    await page.close();
  });

  it('drains its pod once that is confirmed, and comes back', async () => {
    const { admin, token, adminToken, pods } = cluster;
    const page = await open(browser, `http://${admin}/console#token=${token}`);
    await page.getByText('live', { exact: true }).waitFor();
    await page.getByLabel('Admin token').fill(adminToken);
    const published = () => pods[0].metric('relay_publishes_total').catch(() => null);
    await pods[0].addTemplate('before the drain');
    assert.ok((await published()) > 0);
    const ask = () => page.getByRole('button', { name: 'Drain pod-1' }).click();
    const dialog = page.getByRole('dialog');
    await ask();
    await dialog.getByText(/^Drain pod-1\? Its \d+ connections end\.$/).waitFor();
    assert.deepEqual(await inaccessible(page), []);
    await screenshot(page, 'console-drain');
    await dialog.getByRole('button', { name: 'Cancel' }).click();
    await dialog.waitFor({ state: 'hidden' });
    assert.equal(await page.locator('#drained').textContent(), '');
    await ask();
    await dialog.getByRole('button', { name: 'Drain it' }).click();
    await page.getByText('pod-1 drains.').waitFor();
    // The page may not miss a pod that comes back at once. Its counters tell that it is another.
    await eventually('pod-1 began anew', async () => (await published()) === 0);
    await page.getByText('live', { exact: true }).waitFor();
    await page.close();
  });

  it('samples a stream of events, says so, and stays usable', async () => {
    const { admin, token, pods } = cluster;
    const page = await open(browser, `http://${admin}/console#token=${token}`);
    let sends = true;
    // About a hundred a second: several times what one message of the pod holds.
    const sending = Array.from({ length: 4 }, async () => {
      for (; sends; await sleep(25)) await pods[1].addTemplate('one of very many');
    });
    try {
      const sampled = page.getByText(/^Sampled: \d+ of about \d+ events of the last second are shown\.$/);
      const [shown, received] = (await sampled.textContent()).match(/\d+/g).map(Number);
      assert.ok(shown <= 20 && received > shown, `${shown} of ${received}`);
      await page.locator('#event-list').hover();
      await page.getByText('The list stands still while you are in it.').waitFor();
      await page.locator('#event-list button').first().click();
      await page.getByLabel('User (id').fill('ZOLO');
      await page.getByRole('button', { name: 'Explain' }).click();
      await page.locator('#answers').getByText(/^pod-1 (gave|had) /).waitFor();
      assert.ok((await page.locator('#event-list li').count()) <= 100);
    } finally {
      sends = false;
      await Promise.all(sending);
    }
    assert.deepEqual(page.faults, []);
    await page.close();
  });

  it('refuses too many consoles, and requests without the token', async () => {
    const events = `http://${cluster.admin}/console/events`;
    assert.equal((await fetch(events)).status, 401);
    const headers = { authorization: `Bearer ${cluster.token}` };
    const stops = [];
    const statuses = [];
    for (let n = 0; n < 12; n += 1) {
      const stop = new AbortController();
      stops.push(stop);
      const answer = await fetch(events, { headers, signal: stop.signal });
      statuses.push(answer.status);
    }
    stops.forEach((stop) => stop.abort());
    assert.ok(statuses.filter((status) => status === 200).length <= 8, `${statuses}`);
    assert.equal(statuses.at(-1), 503);
    await eventually('there is room again', async () => {
      const stop = new AbortController();
      const { status } = await fetch(events, { headers, signal: stop.signal });
      stop.abort();
      return status === 200;
    });
  });

  it('shows a name made of markup as text', async () => {
    const other = await startCluster({ RELAY_SCHEMA: NOTIFICATIONS });
    try {
      const token = JSON.stringify({ sub: MARKUP, org_id: "t" }).replaceAll(' ', '\\u0020');
      const client = await watch(other.pods[0], token, 'subscription { notified { __typename } }');
      const page = await open(browser, `http://${other.admin}/console#token=${other.token}`);
      await page.getByLabel('Show names').check();
      await page.getByRole('cell', { name: MARKUP, exact: true }).waitFor();
      assert.equal(await page.title(), 'Relay console');
      assert.equal(await page.locator('#people img').count(), 0);
      assert.deepEqual(page.faults, []);
      client.dispose();
      await page.close();
    } finally {
      await other.stop();
    }
  });
});
