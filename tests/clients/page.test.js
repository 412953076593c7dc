// The page at `/`, as a person uses it: GraphiQL in a browser that can reach the pod and nothing
// else.

import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';

import { chromium } from 'playwright-core';

import { Pod, bearer } from './pod.js';

const BROWSERS = ['chromium', 'google-chrome', 'chromium-browser'];
const PATIENCE = 60_000;

const browser = await launch();
const skip = browser ? false : `no browser: install one of ${BROWSERS.join(', ')}`;
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

/** Opens the page. Records in `faults` its errors and its requests to other hosts. */
async function open(pod, settings) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, ...settings });
  page.setDefaultTimeout(PATIENCE);
  page.faults = [];
  page.on('pageerror', (error) => page.faults.push(`${error}`));
  page.on('console', (line) => ['error', 'warning'].includes(line.type()) && page.faults.push(line.text()));
  for (const event of ['request', 'websocket']) {
    page.on(event, (request) => {
      const { protocol, host } = new URL(request.url());
      const isOwn = host === new URL(pod.http).host || protocol === 'data:';
      if (!isOwn) page.faults.push(`${event} to ${request.url()}`);
    });
  }
  await page.goto(pod.http);
  return page;
}

const run = (page) => page.getByRole('button', { name: /^Execute query/ }).click();
const response = (page) => page.getByRole('region', { name: 'Result Window' });

describe('the page at /', { skip, timeout: 300_000 }, () => {
  let pod;
  before(async () => {
    pod = await Pod.start();
    const html = await (await fetch(pod.http)).text();
    assert.match(html, /page\.js/, 'the relay was built without the page: see the warnings of cargo');
  });
  after(async () => {
    await browser?.close();
    pod.stop();
  });

  it('shows the schema, and an event when a mutation runs', async () => {
    const page = await open(pod);
    await page.getByRole('button', { name: 'Show Documentation Explorer' }).click();
    await page.getByRole('link', { name: 'Subscription' }).click();
    await page.getByRole('link', { name: 'templateAdded', exact: true }).waitFor();

    await run(page);
    await pod.untilWatchers(1);
    await pod.addTemplate('shown on the page');
    await response(page).getByText('shown on the page').waitFor();
    await screenshot(page);

    await page.getByRole('button', { name: /^Stop query/ }).click();
    await pod.untilWatchers(0);
    assert.deepEqual(page.faults, []);
  });

  it('runs the mutation it suggests, as another user', async () => {
    const [watching, changing] = [await open(pod), await open(pod)];
    await run(watching);
    await pod.untilWatchers(1);
    await changing.getByRole('tab', { name: 'Add' }).click();
    await run(changing);
    await response(changing).getByText('"success": true').waitFor();
    await response(watching).getByText('"Hello"').waitFor();
    assert.deepEqual([...watching.faults, ...changing.faults], []);
    await watching.close();
    await pod.untilWatchers(0);
  });

  it('shows what is wrong with a token, and works with a valid one', async () => {
    const page = await open(pod);
    const token = async (name) => {
      await page.getByRole('region', { name: 'Headers' }).click();
      await page.keyboard.press('ControlOrMeta+A');
      // Otherwise the editor would put the first typed brace around the selected text.
      await page.keyboard.press('Delete');
      await page.keyboard.type(JSON.stringify({ Authorization: bearer(name) }));
    };
    await token('NO_USER');
    await run(page);
    await response(page).getByText('4403').first().waitFor();
    await token('ZEWI');
    await page.getByRole('button', { name: 'Show Documentation Explorer' }).click();
    await page.getByRole('link', { name: 'Subscription' }).waitFor();
    await run(page);
    await pod.untilWatchers(1);
    await page.close();
    await pod.untilWatchers(0);
  });

  it('lists the licences of its packages', async () => {
    const page = await open(pod);
    await page.getByRole('link', { name: 'Licences' }).click();
    await page.getByText('graphiql 5').waitFor();
    await page.getByText('monaco-editor').first().waitFor();
  });

  it('returns 404 when it is switched off', async () => {
    const off = await Pod.start({ RELAY_PAGE: 'off' });
    try {
      for (const path of ['/', '/page/page.js']) assert.equal((await fetch(off.http + path)).status, 404, path);
    } finally {
      off.stop();
    }
  });
});

async function screenshot(page) {
  if (!process.env.TARGET_TMPDIR) return;
  await mkdir(process.env.TARGET_TMPDIR, { recursive: true });
  await page.screenshot({ path: path.join(process.env.TARGET_TMPDIR, 'page.png') });
}
