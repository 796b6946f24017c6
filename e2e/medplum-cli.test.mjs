// The same life of a secret from a shell, with @medplum/cli. Each command is a process of its own.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { createProject, presenting } from './project.mjs';
import { startServer } from './server.mjs';

const CLI = fileURLToPath(new URL('node_modules/.bin/medplum', import.meta.url));
const COMMAND_MAX_MS = 30_000;

describe('@medplum/cli', () => {
  let server, project, operator, admin, client, rotated;
  const homes = [];

  before(async () => {
    server = await startServer();
    ({ project, client: operator } = await createProject(server, 'Cardiology'));
    admin = await newShell();
  });

  after(async () => {
    await Promise.all(homes.map((home) => rm(home, { recursive: true, force: true })));
    await server?.stop();
  });

  it('logs in as Project Admin and knows who that is', async () => {
    await admin('login', ...credentials('client-credentials', operator.id, operator.secret));
    const me = await admin('whoami');
    assert.match(me, new RegExp(`^Profile: Cardiology operator \\(ClientApplication/${operator.id}\\)$`, 'm'));
    assert.match(me, new RegExp(`^Project: Cardiology \\(Project/${project.id}\\)$`, 'm'));
    assert.match(await admin('token'), /^[\w-]+\.[\w-]+\.[\w-]+\n$/);
  });

  it('creates a client', async () => {
    client = await answer(admin('post', `admin/projects/${project.id}/client`, JSON.stringify({ name: 'Lab' })));
    assert.deepEqual(await answer(admin('get', `ClientApplication/${client.id}`)), client);
    await letsIn(client.id, client.secret);
  });

  it('rotates: both secrets let the client in', async () => {
    rotated = await answer(admin('post', ...rotateSecret('secret', client.secret)));
    assert.equal(rotated.retiringSecret, client.secret);
    assert.notEqual(rotated.secret, client.secret);
    assert.deepEqual(await answer(admin('get', `ClientApplication/${client.id}`)), rotated);
    await letsIn(client.id, rotated.secret);
    await letsIn(client.id, rotated.retiringSecret);
  });

  it('patches without touching a secret', async () => {
    const operations = [{ op: 'add', path: '/description', value: 'Results interface' }];
    const patched = await answer(admin('patch', `ClientApplication/${client.id}`, JSON.stringify(operations)));
    assert.equal(patched.description, 'Results interface');
    assert.equal(patched.secret, rotated.secret);
    assert.equal(patched.retiringSecret, rotated.retiringSecret);
  });

  it('does not put a secret back with a body from before the rotation', async () => {
    await fails(admin('put', `ClientApplication/${client.id}`, JSON.stringify(client)), /^Error: ./m);
    const { secret } = await answer(admin('get', `ClientApplication/${client.id}`));
    assert.equal(secret, rotated.secret);
  });

  it('retires: only the new secret lets the client in', async () => {
    const retire = rotateSecret('retiringSecret', rotated.retiringSecret);
    const retired = await answer(admin('post', ...retire));
    assert.equal(retired.secret, rotated.secret);
    assert.equal('retiringSecret' in retired, false);
    await letsIn(client.id, rotated.secret);
    await shutsOut(client.id, client.secret);
    await fails(admin('post', ...retire), /Provided secret does not match client/);
  });

  it('deletes', async () => {
    await admin('delete', `ClientApplication/${client.id}`);
    await fails(admin('get', `ClientApplication/${client.id}`), /^Error: ./m);
    await shutsOut(client.id, rotated.secret);
  });

  /** As a program does it: by token from the environment, and by Basic from a saved profile. */
  async function letsIn(id, secret) {
    const program = await newShell({
      MEDPLUM_BASE_URL: server.baseUrl,
      MEDPLUM_CLIENT_ID: id,
      MEDPLUM_CLIENT_SECRET: secret,
    });
    assert.equal((await answer(program('get', `ClientApplication/${id}`))).id, id);

    const shell = await newShell();
    await shell('login', ...credentials('basic', id, secret));
    assert.equal((await answer(shell('get', `ClientApplication/${id}`))).id, id);
  }

  async function shutsOut(id, secret) {
    const shell = await newShell();
    await fails(shell('login', ...credentials('client-credentials', id, secret)), /Failed to fetch tokens/);
    await shell('login', ...credentials('basic', id, secret));
    await fails(shell('get', `ClientApplication/${id}`), /^Error: ./m);
  }

  function credentials(authType, id, secret) {
    return ['--auth-type', authType, '--base-url', server.baseUrl, '--client-id', id, '--client-secret', secret];
  }

  function rotateSecret(slot, value) {
    return [`ClientApplication/${client.id}/$rotate-secret`, JSON.stringify(presenting(slot, value))];
  }

  /**
   * Runs commands with a HOME of its own: the client keeps its profiles there.
   * It is the working directory too, because the client also reads `.env`.
   */
  async function newShell(env) {
    const home = await mkdtemp(join(tmpdir(), 'keyrelay-e2e-home-'));
    homes.push(home);
    return async (...args) => {
      const options = { cwd: home, env: { PATH: process.env.PATH, HOME: home, ...env }, timeout: COMMAND_MAX_MS };
      const { stdout } = await promisify(execFile)(process.execPath, [CLI, ...args], options);
      return stdout;
    };
  }
});

async function answer(printed) {
  return JSON.parse(await printed);
}

async function fails(command, message) {
  await assert.rejects(command, (error) => {
    assert.equal(error.code, 1, error.message);
    assert.match(error.stderr, message);
    return true;
  });
}
