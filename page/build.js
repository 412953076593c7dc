// Bundles the page: `node build.js OUT` writes the files that the pod serves below /page/ into OUT,
// each of them compressed.
//
// It makes two bundles, of GraphiQL and of the story, and Monaco's three workers. Their names never
// change: during a rollout a page of an old pod then gets the files of a new pod instead of a 404.
// `licences.txt` holds the licence of every package that is part of the bundles.

import { mkdir, readFile, readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { constants, gzipSync } from 'node:zlib';

import { build } from 'esbuild';

const OUT = path.resolve(process.argv[2] ?? 'dist');
const HERE = path.dirname(fileURLToPath(import.meta.url));

const SHARED = {
  absWorkingDir: HERE,
  bundle: true,
  minify: true,
  write: false,
  metafile: true,
  outdir: OUT,
  legalComments: 'none', // licences.txt has all of them
  assetNames: '[name]',
  loader: { '.ttf': 'file' },
  define: { 'process.env.NODE_ENV': '"production"' },
  target: 'es2022',
  logLevel: 'warning',
  // The page's clients are those that applications use. They find their packages here.
  alias: { 'pubsub-relay-client/graphql-ws': path.join(HERE, '../clients/js/src/graphql-ws.ts') },
  nodePaths: [path.join(HERE, 'node_modules')],
};

const built = await Promise.all([
  build({ ...SHARED, entryPoints: ['src/page.jsx', 'src/story.jsx'], format: 'esm', jsx: 'automatic' }),
  build({
    ...SHARED,
    entryPoints: {
      'editor.worker': 'monaco-editor/esm/vs/editor/editor.worker.js',
      'graphql.worker': 'monaco-graphql/esm/graphql.worker.js',
      'json.worker': 'monaco-editor/esm/vs/language/json/json.worker.js',
    },
    format: 'iife',
  }),
]);

const files = new Map(built.flatMap((result) => result.outputFiles).map((file) => [path.basename(file.path), file.contents]));
files.set('icon.svg', await readFile(path.join(HERE, 'src/icon.svg')));
files.set('licences.txt', await licences(built.flatMap((result) => Object.values(result.metafile.outputs))));

await mkdir(OUT, { recursive: true });
for (const [name, contents] of files) {
  await writeFile(path.join(OUT, name), gzipSync(contents, { level: constants.Z_BEST_COMPRESSION }));
}

/** Returns the licence texts of the packages that these outputs were made from. */
async function licences(outputs) {
  const inputs = outputs.flatMap((output) => Object.entries(output.inputs));
  const packages = new Set(inputs.filter(([, { bytesInOutput }]) => bytesInOutput).map(([input]) => folder(input)));
  packages.delete(undefined);
  const texts = await Promise.all([...packages].sort().map(licence));
  return ['The page is made of these packages, each under its licence.\n', ...texts].join(`\n${'-'.repeat(80)}\n\n`);
}

/**
 * Returns the folder of the package that a bundled file belongs to, or undefined for a file of
 * ours.
 */
function folder(input) {
  return /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(input)?.[0];
}

async function licence(folder) {
  const about = JSON.parse(await readFile(path.join(HERE, folder, 'package.json')));
  const names = (await readdir(path.join(HERE, folder))).filter((name) => /^(licen[sc]e|notice|thirdparty)/i.test(name)).sort();
  const texts = await Promise.all(names.map((name) => readFile(path.join(HERE, folder, name), 'utf8')));
  const title = `${about.name} ${about.version}: ${about.license ?? 'see below'}\n`;
  // Some packages name their licence but do not include its well-known text.
  return [title, ...(texts.length ? texts : [`${about.author?.name ?? about.author ?? about.homepage ?? ''}\n`])].join('\n');
}
