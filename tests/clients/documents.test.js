// Documents whose blocks are a story: every block is run as it stands, in its order.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';

import { Terminal, blocks } from './document.js';
import { eventually } from './pod.js';

describe('docs/ADAPTING.md', { timeout: 60_000 }, () => {
  let terminal;
  before(async () => (terminal = await Terminal.open()));
  after(() => terminal.close());

  it('leads from an idea to a file that is served', async () => {
    const all = blocks('docs/ADAPTING.md');
    const half = all.slice(0, all.findIndex(({ text }) => text.includes('cargo run')));
    const of = (language) => half.filter((block) => block.language === language).map(({ text }) => text);
    writeFileSync(`${terminal.folder}/schema.graphql`, of('graphql').join('\n'));
    writeFileSync(`${terminal.folder}/directory.json`, of('json')[0]);
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
    assert.equal(outputs, of('text').length, 'each output of the page stands after its block');
    const heard = '{"ticketChanged":{"title":"No paper","state":"OPEN"}}';
    await eventually(`${heard} in ${terminal.output}`, () => terminal.output.includes(heard));
  });
});
