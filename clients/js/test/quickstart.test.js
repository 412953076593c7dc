// The page and the publisher of docs/QUICKSTART.md: with two pods, one of them ended, the page shows
// every message once.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Balancer, Pod, eventually } from '../../../tests/clients/pod.js';
import { launch, servePage, skipped } from './browser.js';

const { PATH, PUBSUB_EMULATOR_HOST } = process.env;
const root = fileURLToPath(new URL('..', import.meta.url));
const browser = await launch();

describe('the page of docs/QUICKSTART.md', { skip: skipped(browser), timeout: 120_000 }, () => {
  const ends = [() => browser?.close()];
  after(async () => {
    for (const end of ends.reverse()) await end();
  });

  for (const end of ['drain', 'stop']) {
    it(`misses nothing when its pod ends by ${end}`, async () => {
      const text = readFileSync(`${root}../../docs/QUICKSTART.md`, 'utf8');
      const block = (language) => text.match(new RegExp(`\`\`\`${language}\n([^]*?)\`\`\``))[1];
      const project = `quickstart-${randomUUID().slice(0, 13)}`;
      const settings = {
        PUBSUB_EMULATOR_HOST,
        RELAY_BROKER: `pubsub://${project}/chat`,
        RELAY_SCHEMA: `${root}../../examples/chat/schema.graphql`,
        RELAY_DRAIN_DELAY: '0s',
        RELAY_DRAIN_SPREAD: '500ms',
      };
      const pods = await Promise.all(['pod-1', 'pod-2'].map((name) => Pod.start({ ...settings, RELAY_POD: name })));
      ends.push(() => pods.forEach((pod) => pod.stop()));
      const balancer = await Balancer.start(pods[0]);
      ends.push(() => [balancer.cut(), balancer.stop()]);
      const address = balancer.http.replace('http', 'ws');
      const contents = block('jsx').replace('ws://localhost:8080', address);
      const server = await servePage({ stdin: { contents, loader: 'jsx', resolveDir: root } });
      ends.push(() => server.close());
      const page = await browser.newPage();
      ends.push(() => page.close());
      await page.goto(`http://127.0.0.1:${server.address().port}`);
      await pods[0].untilWatchers(1);

      const program = block('js').replace("'demo'", `'${project}'`);
      const env = { PATH, PUBSUB_EMULATOR_HOST };
      const publisher = spawn(process.execPath, ['--eval', program], { cwd: root, env, stdio: 'inherit' });
      ends.push(() => publisher.kill());
      const published = once(publisher, 'exit');
      await eventually('messages on the page', async () => (await page.locator('li').count()) > 20);
      balancer.pod = pods[1];
      await pods[0][end]();
      assert.deepEqual(await published, [0, null]);
      await eventually('all messages', async () => (await page.locator('li').count()) >= 200);
      const messages = Array.from({ length: 200 }, (_, n) => `Message ${n + 1}`);
      assert.deepEqual(await page.locator('li').allTextContents(), messages);
    });
  }
});
