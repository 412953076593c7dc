// The blocks of a document, run as a reader would run them.

import { execFile, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { promisify } from 'node:util';

import { Pod, eventually, freePort } from './pod.js';

const { PATH, RELAY_BINARY, TARGET_TMPDIR } = process.env;

/** Returns the blocks of a document of this repository, in their order. */
export function blocks(path) {
  const text = readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
  return [...text.matchAll(/^```(\S+)\n(.*?)^```$/gms)].map(([, language, text]) => ({ language, text }));
}

/** A folder with a shell in it, in which `relay` is the program under test. */
export class Terminal {
  output = '';
  groups = [];

  static async open(environment = {}) {
    const terminal = new Terminal();
    terminal.folder = mkdtempSync(`${TARGET_TMPDIR}/terminal-`);
    mkdirSync(`${terminal.folder}/.bin`);
    symlinkSync(RELAY_BINARY, `${terminal.folder}/.bin/relay`);
    terminal.port = await freePort();
    terminal.pod = Object.assign(new Pod(), { port: terminal.port });
    const listen = { RELAY_LISTEN: `127.0.0.1:${terminal.port}` };
    const env = { HOME: terminal.folder, ...listen, ...environment };
    env.PATH = `${terminal.folder}/.bin:${environment.PATH ?? PATH}`;
    terminal.options = { cwd: terminal.folder, env };
    return terminal;
  }

  /** Runs a block to its end. Returns what it prints. */
  async run(block) {
    const { stdout } = await promisify(execFile)('bash', ['--norc', '-ec', `exec 2>&1\n${this.local(block)}`], this.options);
    return stdout;
  }

  /** Starts a block that runs until the terminal is closed. Calls `print` with what it prints. */
  start(block, print = (text) => (this.output += text)) {
    const options = { ...this.options, detached: true, stdio: ['ignore', 'pipe', 'pipe'] };
    const shell = spawn('bash', ['--norc', '-ec', this.local(block)], options);
    this.groups.push(shell);
    for (const stream of [shell.stdout, shell.stderr]) stream.on('data', (data) => print(data));
  }

  /** Starts a pod by a block, and waits until it is ready. */
  async serve(block) {
    this.start(block);
    await eventually('the pod is ready', async () => (await fetch(`${this.pod.http}/readyz`).catch(() => null))?.ok);
  }

  /** Returns the block with this terminal's port instead of the document's. */
  local(block) {
    return block.replaceAll('localhost:3000', `localhost:${this.port}`);
  }

  close() {
    for (const { pid, exitCode } of this.groups) if (exitCode === null) process.kill(-pid, 'SIGKILL');
    rmSync(this.folder, { recursive: true });
  }
}
