// The page at `/`, as a person uses it: GraphiQL in a browser that can reach the pod and nothing
// else.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { launch, open, screenshot, skipped } from './browser.js';
import { Pod, bearer } from './pod.js';

const browser = await launch();
const skip = skipped(browser);

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
    const page = await open(browser, pod.http);
    await page.getByRole('button', { name: 'Show Documentation Explorer' }).click();
    await page.getByRole('link', { name: 'Subscription' }).click();
    await page.getByRole('link', { name: 'templateAdded', exact: true }).waitFor();

    await run(page);
    await pod.untilWatchers(1);
    await pod.addTemplate('shown on the page');
    await response(page).getByText('shown on the page').waitFor();
    await screenshot(page, 'page');

    const list = page.getByRole('region', { name: 'Results', exact: true });
    await list.getByText(`${new URL(pod.http).host} as ZOLO, live`).waitFor();
    await list.getByText('shown on the page').waitFor();
    await page.getByRole('button', { name: /^Stop query/ }).click();
    await pod.untilWatchers(0);
    assert.deepEqual(page.faults, []);
  });

  it('runs the mutation it suggests, as another user', async () => {
    const [watching, changing] = [await open(browser, pod.http), await open(browser, pod.http)];
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
    const page = await open(browser, pod.http);
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
    const page = await open(browser, pod.http);
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
