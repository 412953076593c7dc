// The hook in a real React page, in a real browser: it survives a crash of its pod and a reload.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Balancer, Pod, eventually } from '../../../tests/clients/pod.js';
import { launch, servePage, skipped } from './browser.js';

const { PUBSUB_EMULATOR_HOST } = process.env;
const browser = await launch();
const skip = skipped(browser);

describe('useRelaySubscription', { skip, timeout: 120_000 }, () => {
  let balancer;
  let page;
  let pods;
  let server;
  before(async () => {
    server = await servePage({ entryPoints: [fileURLToPath(new URL('page.jsx', import.meta.url))] });
    const origin = `http://127.0.0.1:${server.address().port}`;
    const settings = {
      PUBSUB_EMULATOR_HOST,
      RELAY_BROKER: `pubsub://browser-${randomUUID().slice(0, 13)}/events`,
      RELAY_ALLOWED_ORIGINS: origin,
    };
    pods = await Promise.all(['a', 'b'].map((name) => Pod.start({ ...settings, RELAY_POD: name })));
    balancer = await Balancer.start(pods[0]);
    page = await browser.newPage();
    await page.goto(`${origin}?relay=${balancer.http.replace('http', 'ws')}/graphql`);
  });
  after(async () => {
    await browser?.close();
    server?.close();
    balancer?.cut();
    balancer?.stop();
    pods?.forEach((pod) => pod.stop());
  });

  const names = () => page.locator('li').allTextContents();
  const shows = (expected) =>
    eventually(`the page shows ${expected}`, async () => (await names()).join() === expected.join());

  it('shows what comes, and misses nothing when its pod crashes', async () => {
    await pods[0].untilWatchers(1);
    await pods[0].addTemplate('first');
    await shows(['first']);
    balancer.pod = null;
    pods[0].stop();
    await pods[1].addTemplate('away');
    balancer.pod = pods[1];
    await shows(['first', 'away']);
    assert.equal(await page.locator('output').textContent(), 'live');
  });

  it('goes on after a reload where the page was', async () => {
    await page.goto('about:blank');
    await pods[1].untilWatchers(0);
    await pods[1].addTemplate('during the reload');
    await page.goBack();
    await eventually('the missed event', async () => (await names()).includes('during the reload'));
    assert.equal(await page.getByRole('alert').textContent(), '');
  });

  it('watches nothing without a request', async () => {
    await page.getByRole('button', { name: 'switch' }).click();
    await pods[1].untilWatchers(0);
    await page.getByRole('button', { name: 'switch' }).click();
    await pods[1].untilWatchers(1);
  });
});
