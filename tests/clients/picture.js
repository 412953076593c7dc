// Records the picture of the README from the real page: `node picture.js FILE`.
//
// It runs the story on `relay cluster` in a browser, as the tests do. RELAY_BINARY names the relay.

import { launch, open } from './browser.js';
import { Cluster } from './pod.js';

const [file] = process.argv.slice(2);
const USERS = 4;
/** Changes before the one in the picture. */
const WARM = 5;

const [browser, cluster] = await Promise.all([launch(), Cluster.start()]);
try {
  const viewport = { width: 1120, height: 774 };
  const page = await open(browser, `${cluster.http}/`, {
    hosts: cluster.hosts,
    viewport,
    colorScheme: 'light',
    reducedMotion: 'reduce',
  });
  // The first requests of a process take longer than all others: they are not in the picture.
  for (let n = 0; n < WARM + 1; n += 1) {
    if (n === WARM) await page.reload();
    await page
      .getByText('live', { exact: true })
      .nth(USERS - 1)
      .waitFor();
    await page.getByRole('button', { name: 'Add template' }).click();
    await page.getByRole('status').getByText('reached ZOLO and ZEWI').waitFor();
  }
  // Without the ring of the focus.
  await page.mouse.click(1, 1);
  await page.screenshot({ path: file });
} finally {
  await browser.close();
  await cluster.stop();
}
