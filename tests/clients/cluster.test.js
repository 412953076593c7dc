// The story at `/` of `relay cluster`, as a person uses it: four users on four pods, in a browser
// that can reach the cluster and nothing else.

import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';

import { inaccessible, launch, open, screenshot, skipped, watchText } from './browser.js';
import { Cluster, addTemplate, eventually } from './pod.js';

const LOCATIONS = { ZOWI: ['1', '2'], ZOLO: ['3'], ZEWI: ['3', '4'], ZELO: ['1'] };
const USERS = Object.keys(LOCATIONS);
const SUBSETS = [[], ['1'], ['2'], ['3'], ['4'], ['1', '3'], ['2', '4'], ['1', '2', '3', '4']];

const browser = await launch();
const skip = skipped(browser);

const pane = (page, user) => page.getByRole('listitem', { name: new RegExp(`^${user} on `) });

/** Publishes on the page, and waits until each user's verdict is there. */
async function publish(page, author, name, shared) {
  await page.getByRole('combobox', { name: 'Author' }).selectOption({ label: author });
  await page.getByRole('textbox', { name: 'Template' }).fill(name);
  for (const location of Object.values(LOCATIONS).flat().concat('4')) {
    await page.getByRole('checkbox', { name: location, exact: true }).setChecked(shared.includes(location));
  }
  await page.getByRole('button', { name: 'Add template' }).click();
  await page.getByRole('status').getByText(`“${name}” reached`).waitFor();
}

/** Returns the panes that are wider than their column. */
const wide = (page) =>
  page
    .locator('.pane')
    .evaluateAll((panes) => panes.filter((pane) => pane.scrollWidth > pane.clientWidth).map((pane) => pane.textContent));

const verdict = async (page, user) => (await pane(page, user).locator('.verdict b').textContent()).trim();

/**
 * Returns the faults of a page whose pod was restarted, but those that the restart explains: refused
 * connections, and the three lines of an editor that could not load its worker and goes on without.
 */
function faults(page) {
  const left = page.faults.filter((fault) => !/ERR_CONNECTION_REFUSED|WebSocket connection to/.test(fault));
  const worker = left.findIndex((fault) => fault.startsWith('Could not create web worker(s). Falling back'));
  if (worker >= 0) left.splice(worker, 3);
  return left;
}

describe('the story of a cluster', { skip, timeout: 300_000 }, () => {
  let cluster;
  before(async () => {
    cluster = await Cluster.start();
  });
  after(async () => {
    await browser?.close();
    await cluster?.stop();
  });

  const tell = (settings) =>
    open(browser, `${cluster.http}/`, { hosts: cluster.hosts, reducedMotion: 'reduce', ...settings });

  it('lights exactly the users of the truth table, with the reason', async () => {
    const page = await tell();
    for (const user of USERS) await pane(page, user).getByText('live', { exact: true }).waitFor();
    for (const author of USERS) {
      for (const shared of SUBSETS) {
        const name = `${author} for ${shared}`;
        await publish(page, author, name, shared);
        for (const user of USERS) {
          const receives = user !== author && LOCATIONS[user].some((location) => shared.includes(location));
          assert.equal(await verdict(page, user), receives ? 'Received' : 'Left out', `${user}: ${name}`);
          assert.equal(
            await pane(page, user).getByText(name, { exact: true }).count(),
            receives ? 1 : 0,
            `${user}: ${name}`,
          );
          if (user === author) await pane(page, user).getByText('authors do not receive').waitFor();
          else if (!receives) await pane(page, user).getByText('listens to location').last().waitFor();
        }
      }
    }
    assert.deepEqual(page.faults, []);
    await page.close();
  });

  it('survives a restart of each pod with nothing missed', async () => {
    const page = await tell();
    for (const [n, user] of USERS.entries()) {
      await pane(page, user).getByText('live', { exact: true }).waitFor();
      await page.getByRole('button', { name: `Restart pod-${n + 1}` }).click();
      await page
        .getByRole('status')
        .getByText(`${user} resumed at pod-${n + 1}: “While pod-${n + 1} was away” was replayed, nothing missed`)
        .waitFor();
      await pane(page, user)
        .getByText(`While pod-${n + 1} was away`)
        .waitFor();
      assert.equal(await verdict(page, user), 'Received');
    }
    assert.deepEqual(await wide(page), []);
    await screenshot(page, 'story-restart', { fullPage: true });
    assert.deepEqual(faults(page), []);
    await page.close();
  });

  it('shows deaf pods as the negative control', async () => {
    const page = await tell();
    await page.getByRole('radio', { name: 'A bus in each pod’s memory' }).click({ force: true });
    for (const user of USERS) await pane(page, user).getByText('live', { exact: true }).waitFor();
    await publish(page, 'ZOWI', 'unheard', ['3']);
    assert.deepEqual(await Promise.all(USERS.map((user) => verdict(page, user))), [
      'Left out',
      'Missed',
      'Missed',
      'Left out',
    ]);
    await pane(page, 'ZOLO').getByText('deaf-2 never saw it').waitFor();
    await screenshot(page, 'story-deaf', { fullPage: true });
    await page.getByRole('radio', { name: 'One topic for all pods' }).click({ force: true });
    for (const user of USERS) await pane(page, user).getByText('live', { exact: true }).waitFor();
    await publish(page, 'ZOWI', 'heard', ['3']);
    assert.deepEqual(await Promise.all(USERS.map((user) => verdict(page, user))), [
      'Left out',
      'Received',
      'Received',
      'Left out',
    ]);
    assert.deepEqual(page.faults, []);
    await page.close();
  });

  it('shows markup as text', async () => {
    const page = await tell();
    const name = '<img src=x onerror="document.title=1"><b>bold</b>';
    await publish(page, 'ZOWI', name, ['3']);
    await pane(page, 'ZOLO').getByText(name).waitFor();
    assert.equal(await page.locator('img').count(), 0);
    assert.deepEqual(page.faults, []);
    await page.close();
  });

  for (const [width, height] of [
    [1280, 800],
    [390, 844],
  ]) {
    for (const colorScheme of ['light', 'dark']) {
      it(`is accessible and fits at ${width} pixels, ${colorScheme}`, async () => {
        const page = await tell({ viewport: { width, height }, colorScheme });
        await publish(page, 'ZOWI', 'Hello', ['3']);
        assert.deepEqual(await inaccessible(page), []);
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(overflow <= 0, `${overflow} pixels too wide`);
        await screenshot(page, `story-${width}-${colorScheme}`, { fullPage: true });
        assert.deepEqual(page.faults, []);
        await page.close();
      });
    }
  }

  it('is used by the keyboard alone', async () => {
    const page = await tell();
    const focused = () =>
      page.evaluate(() => document.activeElement.textContent || document.activeElement.getAttribute('type'));
    for (let steps = 0; (await focused()) !== 'Add template'; steps += 1) {
      assert.ok(steps < 20, 'the button is reached');
      await page.keyboard.press('Tab');
    }
    await page.keyboard.press('Enter');
    await page.getByRole('status').getByText('reached ZOLO and ZEWI').waitFor();
    await page.close();
  });

  it('keeps GraphiQL beside it, and a policy that names the cluster only', async () => {
    const page = await tell();
    const policy = (await page.request.get(`${cluster.http}/`)).headers()['content-security-policy'];
    const connect = /connect-src ([^;]*)/.exec(policy)[1].split(' ');
    const pods = cluster.hosts.flatMap((host) => [`http://${host}`, `ws://${host}`]);
    assert.deepEqual(connect.toSorted(), ["'self'", ...pods].toSorted());
    const refused = await page.evaluate(() =>
      fetch('http://127.0.0.1:9/').then(
        () => 'sent',
        () => 'refused',
      ),
    );
    assert.equal(refused, 'refused');
    assert.match(page.faults.join(), /Content Security Policy/);
    await page.getByRole('link', { name: 'GraphiQL' }).click();
    await page.getByRole('button', { name: /^Execute query/ }).waitFor();
    await page.close();
  });

  for (const width of [1280, 390]) {
    it(`lists every result of GraphiQL and resumes after a restart, at ${width} pixels`, async () => {
      const host = `http://${cluster.hosts[1]}`;
      const page = await open(browser, `${host}/graphiql`, { hosts: cluster.hosts, viewport: { width, height: 844 } });
      const list = page.getByRole('region', { name: 'Results', exact: true });
      const state = list.getByRole('status');
      await page.getByRole('button', { name: /^Execute query/ }).click();
      await state.getByText('pod-2 as ZOLO, live', { exact: true }).waitFor();
      await addTemplate(cluster.http, `first ${width}`);
      await addTemplate(cluster.http, `second ${width}`);
      const time = /^\d\d:\d\d:\d\d\.\d{3}$/;
      for (const name of [`first ${width}`, `second ${width}`]) {
        const listed = list.getByRole('listitem').filter({ hasText: `"${name}"` });
        await listed.first().waitFor();
        assert.equal(await listed.getByText(time).count(), 1, await list.innerText());
      }
      assert.equal(await list.getByText('eventId').first().isVisible(), false);
      await list.getByText('cursor and event id').first().click();
      await list.getByText('eventId').first().waitFor();

      // The client may be without its pod for a moment only.
      const wasAway = await watchText(state, /connecting$/);
      const restart = await fetch(`${host}/cluster/restart/pod-2`, { method: 'POST', headers: { origin: host } });
      assert.equal(restart.status, 202, await restart.text());
      await wasAway();
      await addTemplate(cluster.http, `away ${width}`);
      await state.getByText('pod-2 as ZOLO, live').waitFor();
      await list
        .getByRole('listitem')
        .filter({ hasText: `"away ${width}"` })
        .getByText('replayed')
        .waitFor();
      for (const name of [`first ${width}`, `second ${width}`, `away ${width}`])
        assert.equal(await list.getByText(`"${name}"`).count(), 1, name);

      assert.deepEqual(await inaccessible(page, '.log'), []);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(overflow <= 0, `${overflow} pixels too wide`);
      await screenshot(page, `page-${width}`, { fullPage: true });
      await list.getByRole('button', { name: 'Cancel' }).click();
      await state.getByText('pod-2 as ZOLO, cancelled').waitFor();
      await page.getByRole('button', { name: /^Execute query/ }).waitFor();
      await addTemplate(cluster.http, 'after the end');
      await list.getByRole('button', { name: 'Clear' }).click();
      assert.equal(await list.getByRole('listitem').count(), 0);
      assert.deepEqual(faults(page), []);
      await page.close();
    });
  }

  it('refuses what other pages ask of the process', async () => {
    const ask = (headers) => fetch(`${cluster.http}/cluster/restart/pod-1`, { method: 'POST', headers });
    for (const headers of [{}, { origin: 'http://evil.example' }, { origin: 'http://localhost:5173' }]) {
      assert.equal((await ask(headers)).status, 403, JSON.stringify(headers));
    }
    assert.equal((await fetch(`${cluster.http}/cluster/restart/pod-1`)).status, 405);
  });
});

describe('the story of a declared domain', { skip, timeout: 120_000 }, () => {
  const SCHEMA = `
extend schema @interest(key: "room:{rooms}")
type Message @projection(key: "id", events: ["message.posted.v1"]) { id: ID!  room: ID!  text: String! }
type Query { messages(room: ID! @filter): [Message!] @allow(key: "room:{room}") @audience(keys: ["room:{room}"]) }
type Mutation { postMessage(room: ID!, text: String!): Message @allow(key: "room:{room}") @publish(type: "message.posted.v1") }
type Subscription { messagePosted: Message @event(type: "message.posted.v1") @audience(keys: ["room:{room}"], exceptAuthor: true) }
`;

  it('builds its panes from the file', async () => {
    const own = await launch();
    const file = path.join(process.env.TARGET_TMPDIR ?? tmpdir(), 'story.graphql');
    await writeFile(file, SCHEMA);
    const cluster = await Cluster.start({ RELAY_SCHEMA: file }, ['--broker', 'memory:']);
    try {
      const page = await open(own, `${cluster.http}/`, { hosts: cluster.hosts, reducedMotion: 'reduce' });
      await eventually('the documents are there', async () =>
        (await page.getByRole('textbox', { name: 'Mutation' }).inputValue()).includes('postMessage'),
      );
      assert.match(
        await page.getByRole('textbox', { name: 'Subscription of each user' }).inputValue(),
        /messagePosted { id room text }/,
      );
      for (const [n, claims] of [
        { sub: 'ann', rooms: ['1'] },
        { sub: 'bob', rooms: ['1'] },
      ].entries()) {
        await page.getByRole('textbox', { name: 'Token' }).nth(n).fill(JSON.stringify(claims));
        await page.getByRole('textbox', { name: 'Token' }).nth(n).blur();
      }
      await page.getByText('live', { exact: true }).nth(3).waitFor();
      await page.getByRole('button', { name: 'Run mutation' }).click();
      await page.getByRole('status').getByText('The event reached').waitFor();
      const verdicts = await page.locator('.verdict b').allTextContents();
      assert.deepEqual(verdicts, ['Left out', 'Received', 'Left out', 'Left out']);
      await page.getByText('authors do not receive').waitFor();
      assert.deepEqual(await inaccessible(page), []);
      assert.deepEqual(await wide(page), []);
      await screenshot(page, 'story-declared', { fullPage: true });
      assert.deepEqual(page.faults, []);
    } finally {
      await own.close();
      await cluster.stop();
    }
  });
});
