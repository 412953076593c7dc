// A browser for tests, and pages in it.

import { once } from 'node:events';
import http from 'node:http';
import path from 'node:path';

import { build } from 'esbuild';
import { chromium } from 'playwright-core';

const { CI, PATH, PUBSUB_EMULATOR_HOST } = process.env;
const BROWSERS = ['chromium', 'google-chrome', 'chromium-browser'];

/** Starts the first installed browser. It can reach no host but this one. */
export async function launch() {
  const args = ['--no-sandbox', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'];
  for (const name of BROWSERS) {
    for (const folder of (PATH ?? '').split(path.delimiter)) {
      const found = await chromium.launch({ executablePath: path.join(folder, name), args }).catch(() => null);
      if (found) return found;
    }
  }
}

/** Returns why tests in this browser are skipped, or false. In CI nothing may be. */
export function skipped(browser) {
  const skip =
    (!browser && `no browser: install one of ${BROWSERS.join(', ')}`) ||
    (!PUBSUB_EMULATOR_HOST && 'no emulator: PUBSUB_EMULATOR_HOST is not set');
  if (skip && CI === 'true') throw new Error(skip);
  return skip;
}

/** Serves a page with this program, as esbuild bundles it. */
export async function servePage(source) {
  const { outputFiles } = await build({
    ...source,
    bundle: true,
    format: 'esm',
    jsx: 'automatic',
    define: { 'process.env.NODE_ENV': '"development"' },
    write: false,
  });
  const server = http.createServer((request, response) => {
    const isScript = request.url === '/page.js';
    const html = '<!doctype html><main></main><script type="module" src="/page.js"></script>';
    response.setHeader('content-type', isScript ? 'text/javascript' : 'text/html; charset=utf-8');
    response.end(isScript ? outputFiles[0].text : html);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}
