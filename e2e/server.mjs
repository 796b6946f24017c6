// Starts the real binary on a free port with an empty data directory, and stops it again.
// Every wait is for an event and has a limit, so a hanging server fails a test instead of blocking it.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const START_MAX_MS = 30_000;
const DRAIN_MAX_MS = 30_000;

const LISTENING = /^keyrelay listening on (http:\/\/127\.0\.0\.1:\d+\/)$/;

export async function startServer() {
  const binary = process.env.KEYRELAY_BIN;
  assert(binary, 'KEYRELAY_BIN is not set: it must be the path of the keyrelay binary to test');

  const dataDir = await mkdtemp(join(tmpdir(), 'keyrelay-e2e-'));
  const child = spawn(binary, ['serve', '--listen', '127.0.0.1:0', '--data-dir', dataDir], {
    env: ownEnvironment(),
    stdio: ['ignore', 'pipe', 'pipe'],
  });

  // A run that ends early, by a mistake in a test, leaves no server behind.
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill);

  let log = '';
  child.stderr.setEncoding('utf8').on('data', (text) => (log += text));

  const closed = once(child, 'close');
  try {
    const stdout = createInterface({ input: child.stdout });
    const started = once(stdout, 'line', { signal: AbortSignal.timeout(START_MAX_MS) });
    const [line] = await Promise.race([started, closed.then(exitedEarly)]);
    const [, baseUrl] = LISTENING.exec(line) ?? assert.fail(`unexpected first line on stdout: ${line}`);
    return { baseUrl, bootstrap: await readBootstrap(), log: () => log, stop };
  } catch (cause) {
    kill();
    await closed.catch(() => {});
    await rm(dataDir, { recursive: true, force: true });
    throw new Error(`keyrelay did not start: ${cause.message}\n${log}`, { cause });
  }

  async function readBootstrap() {
    const file = join(dataDir, 'bootstrap.json');
    const { mode } = await stat(file);
    assert.equal((mode & 0o777).toString(8), '600', 'only the owner may read the bootstrap secret');
    return JSON.parse(await readFile(file, 'utf8'));
  }

  async function stop() {
    const overdue = setTimeout(kill, DRAIN_MAX_MS);
    child.kill('SIGTERM');
    const [code, signal] = await closed;
    clearTimeout(overdue);
    process.off('exit', kill);
    await rm(dataDir, { recursive: true, force: true });
    assert.deepEqual({ code, signal }, { code: 0, signal: null }, `SIGTERM must drain and exit 0\n${log}`);
  }
}

/** Settings of the shell that runs the tests must not reach the server under test. */
function ownEnvironment() {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('KEYRELAY_'));
  return { ...Object.fromEntries(inherited), KEYRELAY_LOG: 'debug' };
}

function exitedEarly([code, signal]) {
  throw new Error(`it exited with ${signal ?? `code ${code}`} before it listened`);
}
