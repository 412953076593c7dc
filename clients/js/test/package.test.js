// The packed package in an empty project: it runs the example of its README.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Pod, eventually } from '../../../tests/clients/pod.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const { devDependencies } = JSON.parse(readFileSync(`${root}package.json`, 'utf8'));

describe('the packed package', { timeout: 120_000 }, () => {
  it('runs the example of its README in an empty project', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'relay-client-'));
    const pod = await Pod.start();
    let example;
    try {
      const npm = (cwd, ...args) => execFileSync('npm', [...args, '--silent'], { cwd, encoding: 'utf8' });
      const packed = npm(root, 'pack', '--pack-destination', folder).trim();
      writeFileSync(`${folder}/package.json`, '{"type": "module"}');
      npm(folder, 'install', '--no-audit', '--no-fund', '--prefer-offline', `./${packed}`, `graphql-ws@${devDependencies['graphql-ws']}`);
      const [, code] = readFileSync(`${root}README.md`, 'utf8').match(/```js\n([^]*?)```/);
      writeFileSync(`${folder}/app.js`, code);
      const env = { ...process.env, RELAY_URL: `${pod.http.replace('http', 'ws')}/graphql` };
      // Node 20 has the WebSocket of browsers behind a flag.
      example = spawn(process.execPath, ['--experimental-websocket', 'app.js'], { cwd: folder, env });
      let printed = '';
      for (const stream of [example.stdout, example.stderr]) stream.on('data', (data) => (printed += data));
      await pod.untilWatchers(1);
      await pod.addTemplate('by the example');
      await eventually('the example prints', () => printed.includes('\n'));
      assert.match(printed, /^by the example\n/m);
    } finally {
      example?.kill();
      pod.stop();
      rmSync(folder, { recursive: true });
    }
  });
});
