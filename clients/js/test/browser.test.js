// The hook in a real React page, in a real browser: it survives a crash of its pod and a reload.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';
import { chromium } from 'playwright-core';

import { Balancer, Pod, eventually } from '../../../tests/clients/pod.js';

const { PUBSUB_EMULATOR_HOST } = process.env;
const BROWSERS = ['chromium', 'google-chrome', 'chromium-browser'];

const browser = await launch();
const skip =
  (!browser && `no browser: install one of ${BROWSERS.join(', ')}`) ||
  (!PUBSUB_EMULATOR_HOST && 'no emulator: PUBSUB_EMULATOR_HOST is not set');
if (skip && process.env.CI === 'true') throw new Error(skip);

/** Starts the first installed browser. It can reach no host but this one. */
async function launch() {
  const args = ['--no-sandbox', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'];
  for (const name of BROWSERS) {
    for (const folder of (process.env.PATH ?? '').split(path.delimiter)) {
      const found = await chromium.launch({ executablePath: path.join(folder, name), args }).catch(() => null);
      if (found) return found;
    }
  }
}

describe('useRelaySubscription', { skip, timeout: 120_000 }, () => {
  let balancer;
  let page;
  let pods;
  let server;
  before(async () => {
    const { outputFiles } = await build({
      entryPoints: [fileURLToPath(new URL('page.jsx', import.meta.url))],
      bundle: true,
      format: 'esm',
      jsx: 'automatic',
      define: { 'process.env.NODE_ENV': '"development"' },
      write: false,
    });
    server = http.createServer((request, response) => {
      const isScript = request.url === '/page.js';
      response.setHeader('content-type', isScript ? 'text/javascript' : 'text/html; charset=utf-8');
      response.end(isScript ? outputFiles[0].text : '<!doctype html><script type="module" src="/page.js"></script>');
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
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
