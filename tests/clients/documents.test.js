// Documents whose blocks are a story: every block is run as it stands, in its order.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Terminal, blocks } from './document.js';
import { eventually } from './pod.js';

const { CI, PATH, PUBLISHER_PYTHON, PUBSUB_EMULATOR_HOST } = process.env;

const of = (blocks, language) => blocks.filter((block) => block.language === language).map(({ text }) => text);

/** Writes the files of ADAPTING.md into the terminal's folder. Returns the blocks of its first half. */
function helpDesk({ folder }) {
  const all = blocks('docs/ADAPTING.md');
  const half = all.slice(0, all.findIndex(({ text }) => text.includes('cargo run')));
  writeFileSync(`${folder}/schema.graphql`, of(half, 'graphql').join('\n'));
  writeFileSync(`${folder}/directory.json`, of(half, 'json')[0]);
  return half;
}

describe('docs/ADAPTING.md', { timeout: 60_000 }, () => {
  let terminal;
  before(async () => (terminal = await Terminal.open()));
  after(() => terminal.close());

  it('leads from an idea to a file that is served', async () => {
    const half = helpDesk(terminal);
    let outputs = 0;
    for (const [n, { language, text }] of half.entries()) {
      if (language !== 'sh') continue;
      const next = half[n + 1];
      if (text.includes('relay serve')) {
        await terminal.serve(text);
      } else if (text.includes('text/event-stream')) {
        terminal.start(text);
        await terminal.pod.untilWatchers(1);
      } else {
        const output = await terminal.run(text);
        if (next?.language !== 'text') continue;
        assert.equal(output, next.text, text);
        outputs += 1;
      }
    }
    assert.equal(outputs, of(half, 'text').length, 'each output of the page stands after its block');
    const heard = '{"ticketChanged":{"title":"No paper","state":"OPEN"}}';
    await eventually(`${heard} in ${terminal.output}`, () => terminal.output.includes(heard));
  });
});

const missing = [
  !PUBSUB_EMULATOR_HOST && 'the emulator',
  !PUBLISHER_PYTHON && 'Python',
  !has('javac') && 'a JDK (17 or later)',
  !has('gcloud') && 'gcloud',
].filter(Boolean);
const skip = missing.length > 0 && `missing: ${missing.join(', ')}`;
if (skip && CI === 'true') throw new Error(skip);

describe('docs/PUBLISH.md', { skip, timeout: 120_000 }, () => {
  const project = `publish-${randomUUID().slice(0, 13)}`;
  let terminal;
  before(async () => {
    terminal = await Terminal.open({
      PATH: `${dirname(PUBLISHER_PYTHON)}:${PATH}`,
      NODE_PATH: fileURLToPath(new URL('node_modules', import.meta.url)),
      PUBSUB_EMULATOR_HOST,
      GOOGLE_CLOUD_PROJECT: project,
    });
  });
  after(() => terminal.close());

  it('has programs whose events reach exactly their audience', async () => {
    helpDesk(terminal);
    const files = { js: 'publish.js', python: 'publish.py', java: 'Publish.java', json: 'outbox.json' };
    const page = blocks('docs/PUBLISH.md');
    const [serve, listen, ...programs] = of(page, 'sh');
    for (const [language, name] of Object.entries(files)) writeFileSync(`${terminal.folder}/${name}`, of(page, language)[0]);
    await terminal.serve(serve);
    const agents = { ann: '', bob: '', eve: '' };
    for (const [n, agent] of Object.keys(agents).entries()) {
      terminal.start(listen.replace('Bearer ann', `Bearer ${agent}`), (text) => (agents[agent] += text));
      await terminal.pod.untilWatchers(n + 1);
    }
    for (const program of programs) await terminal.run(program);
    const [curl, outbox] = programs.slice(-2);
    await terminal.run(outbox); // a repeat
    // Events of one ordering key come in order: with this one, all others were dispatched.
    await terminal.run(curl.replace('"print"', '"web"').replace('From curl', 'The last'));

    const titles = (agent) => [...agents[agent].matchAll(/"ticketChanged":{"title":"([^"]*)"/g)].map(([, title]) => title);
    await eventually(`the last of ${JSON.stringify(agents)}`, () => titles('eve').includes('The last'));
    await eventually(`all of ${agents.ann}`, () => titles('ann').length === 6);
    const all = ['From Node', 'From Python', 'From Java', 'From gcloud', 'From curl', 'From an outbox'];
    assert.deepEqual({ ann: titles('ann'), bob: titles('bob'), eve: titles('eve') }, {
      ann: all,
      bob: ['From an outbox'],
      eve: ['The last'],
    });
  });
});

function has(program) {
  return spawnSync(program, ['--version']).status === 0;
}
