// A browser that can reach this machine only, and pages in it whose faults are recorded.

import { mkdir } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';

import { chromium } from 'playwright-core';

const BROWSERS = ['chromium', 'google-chrome', 'chromium-browser'];
const PATIENCE = Number(process.env.PATIENCE ?? 60_000);

/** Starts the first installed browser. It can reach no host but this one. */
export async function launch() {
  const args = ['--no-sandbox', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'];
  for (const name of BROWSERS) {
    for (const folder of (process.env.PATH ?? '').split(path.delimiter)) {
      const found = await chromium.launch({ executablePath: path.join(folder, name), args }).catch(() => null);
      if (found) return found;
    }
  }
}

/** Returns why tests in this browser are skipped, or false. In CI nothing may be. */
export function skipped(browser) {
  const skip = browser ? false : `no browser: install one of ${BROWSERS.join(', ')}`;
  if (skip && process.env.CI === 'true') throw new Error(skip);
  return skip;
}

/** Opens a page. Records in `faults` its errors and its requests to hosts other than `hosts`. */
export async function open(browser, url, { hosts = [new URL(url).host], ...settings } = {}) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, ...settings });
  page.setDefaultTimeout(PATIENCE);
  page.faults = [];
  page.on('pageerror', (error) => page.faults.push(`${error}`));
  page.on('console', (line) => ['error', 'warning'].includes(line.type()) && page.faults.push(line.text()));
  for (const event of ['request', 'websocket']) {
    page.on(event, (request) => {
      const { protocol, host } = new URL(request.url());
      if (!hosts.includes(host) && protocol !== 'data:') page.faults.push(`${event} to ${request.url()}`);
    });
  }
  await page.goto(url);
  return page;
}

/** Watches the text of an element from now on. Returns a function that waits until it has matched for a moment. */
export async function watchText(element, pattern) {
  const record = await element.evaluateHandle((node, source) => {
    const record = { isMatched: false };
    const note = () => (record.isMatched ||= new RegExp(source).test(node.textContent));
    new MutationObserver(note).observe(node, { childList: true, characterData: true, subtree: true });
    return record;
  }, pattern.source);
  return () => element.page().waitForFunction(({ isMatched }) => isMatched, record);
}

/** Returns what axe-core finds wrong in the page that is serious or worse. */
export async function inaccessible(page, within = 'body') {
  const { source } = createRequire(import.meta.url)('axe-core');
  await page.evaluate(source);
  const { violations } = await page.evaluate((element) => globalThis.axe.run(element), within);
  const serious = violations.filter(({ impact }) => ['serious', 'critical'].includes(impact));
  return serious.map(
    ({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join('; ')}`,
  );
}

/** Keeps a picture of the page in cargo's folder for files of tests. */
export async function screenshot(page, name, settings) {
  const folder = process.env.TARGET_TMPDIR;
  if (!folder) return;
  await mkdir(folder, { recursive: true });
  await page.screenshot({ path: path.join(folder, `${name}.png`), ...settings });
}
