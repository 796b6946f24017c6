// The published library of Standard Webhooks takes what Keyrelay sends: also while the signing secret is rotated.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { after, before, describe, it } from 'node:test';

import { Webhook } from 'standardwebhooks';

import { createProject } from './project.mjs';
import { startServer } from './server.mjs';

let server, admin, project, receiver;

/** Receives webhooks, and keeps each until somebody asks for it. */
class Receiver {
  #waiting = [];
  #received = [];

  async open() {
    this.http = createServer(async (request, response) => {
      let body = '';
      for await (const chunk of request.setEncoding('utf8')) body += chunk;
      response.writeHead(204).end();
      const received = { headers: request.headers, body };
      const next = this.#waiting.shift();
      if (next) next(received);
      else this.#received.push(received);
    });
    this.http.listen(0, '127.0.0.1');
    await once(this.http, 'listening');
    this.url = `http://127.0.0.1:${this.http.address().port}/keyrelay`;
    return this;
  }

  next() {
    const received = this.#received.shift();
    return received ? Promise.resolve(received) : new Promise((resolve) => this.#waiting.push(resolve));
  }

  close() {
    this.http.close();
  }
}

before(async () => {
  server = await startServer();
  ({ admin, project } = await createProject(server, 'Cardiology'));
  receiver = await new Receiver().open();
});

after(async () => {
  receiver?.close();
  await server?.stop();
});

async function rotate() {
  const client = await admin.post(`admin/projects/${project.id}/client`, { name: 'Robot' });
  await admin.post(admin.fhirUrl('ClientApplication', client.id, '$rotate-secret'), { secret: client.secret });
  return client;
}

describe('a webhook', () => {
  it('is verified by the published library, by either secret while its own is rotated', async () => {
    const made = await admin.post(`admin/projects/${project.id}/webhooks`, { url: receiver.url });
    const client = await rotate();
    const first = await receiver.next();
    const told = new Webhook(made.secret).verify(first.body, first.headers);
    assert.equal(told.type, 'client.secret.rotated');
    assert.equal(told.data.client, `ClientApplication/${client.id}`);
    assert.throws(() => new Webhook(made.secret).verify(`${first.body} `, first.headers));

    const rotated = await admin.post(`admin/projects/${project.id}/webhooks/${made.id}/rotate-secret`, {});
    assert.throws(() => new Webhook(rotated.secret).verify(first.body, first.headers));
    await rotate();
    const second = await receiver.next();
    for (const secret of [made.secret, rotated.secret]) {
      assert.equal(new Webhook(secret).verify(second.body, second.headers).type, 'client.secret.rotated');
    }
  });
});
