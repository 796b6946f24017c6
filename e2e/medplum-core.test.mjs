// A client secret's whole life through @medplum/core, the way its users write it.

import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';

import { getStatus, OperationOutcomeError } from '@medplum/core';

import { connect, createProject, presenting } from './project.mjs';
import { startServer } from './server.mjs';

const MISMATCH = 'Provided secret does not match client';

describe('@medplum/core', () => {
  let server, superAdmin, project, admin, operator;
  const secretsSeen = new Set();

  before(async () => {
    server = await startServer();
    ({ superAdmin, project, admin, client: operator } = await createProject(server, 'Cardiology'));
    secretsSeen.add(server.bootstrap.clientSecret).add(operator.secret);
  });

  after(() => server?.stop());

  const newClient = async (name = `Client ${randomUUID()}`) =>
    note(await admin.post(`admin/projects/${project.id}/client`, { name }));

  // The call that the operation's documentation shows. Keep it verbatim: users copy it.
  const rotate = async (client, medplum = admin) =>
    note(
      await medplum.post(medplum.fhirUrl('ClientApplication', client.id, '$rotate-secret'), {
        resourceType: 'Parameters',
        parameter: [{ name: 'secret', valueString: client.secret }],
      })
    );

  const retire = (client, medplum = admin) =>
    medplum.post(
      medplum.fhirUrl('ClientApplication', client.id, '$rotate-secret'),
      presenting('retiringSecret', client.retiringSecret)
    );

  const read = (client, medplum = admin) => medplum.readResource('ClientApplication', client.id);

  function note(client) {
    assert.match(client.secret, /^\S{32,}$/);
    secretsSeen.add(client.secret);
    return client;
  }

  describe('logging in', () => {
    it('as Super Admin', () => {
      assert.equal(superAdmin.isSuperAdmin(), true);
      assert.equal(superAdmin.getProject().id, server.bootstrap.projectId);
      assert.equal(superAdmin.getProfile().id, server.bootstrap.clientId);
      assert.equal(server.bootstrap.baseUrl, server.baseUrl);
    });

    it('as Project Admin', () => {
      assert.equal(admin.isSuperAdmin(), false);
      assert.equal(admin.isProjectAdmin(), true);
      assert.equal(admin.getProject().id, project.id);
      assert.equal(admin.getProject().name, 'Cardiology');
      assert.equal(admin.getProfile().resourceType, 'ClientApplication');
      assert.equal(admin.getProfile().id, operator.id);
      assert.equal(admin.getProjectMembership().profile.reference, `ClientApplication/${operator.id}`);

      const { profile, project: loginProject } = admin.getActiveLogin();
      assert.equal(profile.reference, `ClientApplication/${operator.id}`);
      assert.equal(profile.display, 'Cardiology operator');
      assert.equal(loginProject.reference, `Project/${project.id}`);
      assert.equal(loginProject.display, 'Cardiology');
    });

    it('as Project Admin of a client that the Super Admin placed in the project', async () => {
      const secret = randomBytes(32).toString('base64url');
      const client = await superAdmin.createResource({
        resourceType: 'ClientApplication',
        meta: { project: project.id },
        name: 'Second operator',
        secret,
      });
      secretsSeen.add(secret);
      const reference = { reference: `ClientApplication/${client.id}` };
      await superAdmin.createResource({
        resourceType: 'ProjectMembership',
        meta: { project: project.id },
        project: { reference: `Project/${project.id}` },
        user: reference,
        profile: reference,
        admin: true,
      });

      const { medplum: second } = connect(server.baseUrl);
      await second.startClientLogin(client.id, secret);
      assert.equal(second.isProjectAdmin(), true);
      assert.equal(second.getProject().id, project.id);
    });

    it('as an ordinary client, which is no admin', async () => {
      const client = await newClient();
      const medplum = await grants(client.id, client.secret);
      assert.equal(medplum.isProjectAdmin(), false);
    });

    it('with the credentials in a header only', async () => {
      const client = await newClient();
      const { medplum } = connect(server.baseUrl, { authCredentialsMethod: 'header' });
      const profile = await medplum.startClientLogin(client.id, client.secret);
      assert.equal(profile.id, client.id);
    });

    it('after setBasicAuth, when the same credentials arrive in header and body', async () => {
      const client = await newClient();
      const { medplum } = connect(server.baseUrl);
      medplum.setBasicAuth(client.id, client.secret);
      const profile = await medplum.startClientLogin(client.id, client.secret);
      assert.equal(profile.id, client.id);
    });

    it('refuses a wrong secret and an unknown client with the same words', async () => {
      const client = await newClient();
      const unknown = { ...client, id: randomUUID() };
      const wrong = { ...client, secret: operator.secret };
      assert.equal(await refusesToGrant(unknown.id, unknown.secret), await refusesToGrant(wrong.id, wrong.secret));
    });
  });

  describe('the life of a secret', () => {
    it('rotates, lets both secrets in, retires, and lets only the new one in', async () => {
      const client = await newClient();
      assert.equal(client.resourceType, 'ClientApplication');
      assert.equal(client.retiringSecret, undefined);
      assert.deepEqual(await read(client), client);
      await letsIn(client.id, client.secret);

      const rotated = await rotate(client);
      assert.equal(rotated.resourceType, 'ClientApplication');
      assert.equal(rotated.id, client.id);
      assert.equal(rotated.retiringSecret, client.secret);
      assert.notEqual(rotated.secret, client.secret);
      assert.notEqual(rotated.meta.versionId, client.meta.versionId);
      assert.deepEqual(await read(client), rotated);
      await letsIn(client.id, rotated.secret);
      await letsIn(client.id, rotated.retiringSecret);

      const retired = await retire(rotated);
      assert.equal(retired.secret, rotated.secret);
      assert.equal('retiringSecret' in retired, false);
      assert.deepEqual(await read(client), retired);
      await letsIn(client.id, rotated.secret);
      await shutsOut(client.id, client.secret);

      await refused(retire(rotated), 400, MISMATCH);
      await letsIn(client.id, rotated.secret);
    });

    it('drops the retiring secret when it rotates again', async () => {
      const first = await newClient();
      const second = await rotate(first);
      const third = await rotate(second);
      assert.equal(third.retiringSecret, second.secret);
      await shutsOut(first.id, first.secret);
      await letsIn(first.id, second.secret);
      await letsIn(first.id, third.secret);
    });

    it('refuses a secret that is not the one in its slot, and changes nothing', async () => {
      const client = await newClient();
      const rotated = await rotate(client);
      await refused(rotate({ ...client, secret: operator.secret }), 400, MISMATCH);
      await refused(rotate({ ...client, secret: rotated.retiringSecret }), 400, MISMATCH);
      await refused(retire({ ...client, retiringSecret: rotated.secret }), 400, MISMATCH);
      assert.deepEqual(await read(client), rotated);
    });

    it('lets exactly one of many simultaneous rotations win', async () => {
      const client = await newClient();
      const outcomes = await Promise.allSettled(Array.from({ length: 8 }, () => rotate(client)));
      const [winner, ...rest] = outcomes.filter(({ status }) => status === 'fulfilled');
      assert.equal(rest.length, 0);
      for (const { reason } of outcomes.filter(({ status }) => status === 'rejected')) {
        assert.equal(reason.outcome?.issue[0].details.text, MISMATCH);
      }
      assert.deepEqual(await read(client), winner.value);
    });

    it('rotates in a batch', async () => {
      const [one, two] = [await newClient(), await newClient()];
      const entry = (client, secret) => ({
        request: { method: 'POST', url: `ClientApplication/${client.id}/$rotate-secret` },
        resource: presenting('secret', secret),
      });
      const answer = await admin.executeBatch({
        resourceType: 'Bundle',
        type: 'batch',
        entry: [entry(one, one.secret), entry(two, one.secret), entry(two, two.secret)],
      });

      assert.equal(answer.resourceType, 'Bundle');
      assert.equal(answer.type, 'batch-response');
      const [rotatedOne, mismatch, rotatedTwo] = answer.entry;
      assert.match(rotatedOne.response.status, /^200/);
      assert.match(mismatch.response.status, /^400/);
      assert.equal(mismatch.response.outcome.issue[0].details.text, MISMATCH);
      assert.match(rotatedTwo.response.status, /^200/);
      for (const { resource } of [rotatedOne, rotatedTwo]) {
        assert.deepEqual(await read(resource), note(resource));
        await letsIn(resource.id, resource.secret);
        await letsIn(resource.id, resource.retiringSecret);
      }
    });

    it('rotates in a transaction together with a client that comes into being, or does neither', async () => {
      const client = await newClient();
      const [name, secret, fullUrl] = [`Client ${randomUUID()}`, randomBytes(32).toString('hex'), `urn:uuid:${randomUUID()}`];
      const member = { reference: fullUrl };
      const membership = { resourceType: 'ProjectMembership', user: member, profile: member };
      const transaction = (presented) =>
        admin.executeBatch({
          resourceType: 'Bundle',
          type: 'transaction',
          entry: [
            {
              request: { method: 'POST', url: 'ProjectMembership' },
              resource: { ...membership, project: { reference: `Project/${project.id}` } },
            },
            {
              fullUrl,
              request: { method: 'POST', url: 'ClientApplication' },
              resource: { resourceType: 'ClientApplication', name, secret },
            },
            {
              request: { method: 'POST', url: `ClientApplication/${client.id}/$rotate-secret` },
              resource: presenting('secret', presented),
            },
          ],
        });

      await refused(transaction(operator.secret), 400, MISMATCH);
      assert.equal(await admin.searchOne('ClientApplication', { name }), undefined);
      assert.deepEqual(await read(client), client);

      const answer = await transaction(client.secret);
      assert.equal(answer.type, 'transaction-response');
      const [, made, rotated] = answer.entry.map(({ resource }) => resource);
      assert.deepEqual(await read(made), note(made));
      assert.deepEqual(await read(client), note(rotated));
      await letsIn(made.id, secret);
      await letsIn(client.id, rotated.secret);
      await letsIn(client.id, client.secret);
    });

    it('shows no secret in history', async () => {
      const client = await newClient();
      const rotated = await rotate(client);
      await retire(rotated);

      const history = await admin.readHistory('ClientApplication', client.id);
      assert.equal(history.type, 'history');
      assert.equal(history.entry.length, 3);
      showsNoSecret(history);
      for (const { resource } of history.entry) {
        showsNoSecret(await admin.readVersion('ClientApplication', client.id, resource.meta.versionId));
      }
    });

    it('is not undone by an update with a body from before the rotation', async () => {
      const stale = await newClient();
      const rotated = await rotate(stale);
      await refused(admin.updateResource({ ...stale, description: 'stale' }), 409);
      assert.deepEqual(await read(stale), rotated);

      const retired = await retire(rotated);
      await refused(admin.updateResource({ ...stale, description: 'stale' }), 409);
      await refused(admin.updateResource({ ...rotated, description: 'stale' }), 409);
      assert.deepEqual(await read(stale), retired);
      await letsIn(stale.id, rotated.secret);
      await shutsOut(stale.id, stale.secret);
    });

    it('is not touched by an update with the current secrets, or with none', async () => {
      const client = await rotate(await newClient());
      const { secret, retiringSecret, ...withoutSecrets } = client;
      for (const body of [client, withoutSecrets]) {
        const updated = await admin.updateResource({ ...body, description: `like ${Object.keys(body).length}` });
        assert.equal(updated.secret, secret);
        assert.equal(updated.retiringSecret, retiringSecret);
      }
      await letsIn(client.id, secret);
      await letsIn(client.id, retiringSecret);
    });
  });

  describe('who may', () => {
    it('refuses rotation to a client that is no admin, and hides the secrets from it', async () => {
      const client = await newClient();
      const medplum = await grants(client.id, client.secret);
      await refused(rotate(client, medplum), 403);
      for (const visible of await medplum.searchResources('ClientApplication')) {
        showsNoSecret(visible);
      }
    });

    it('finds nothing in another project, whatever the id', async () => {
      const { admin: stranger } = await createProject(server, 'Radiology');
      const client = await newClient();
      await refused(rotate(client, stranger), 404);
      await refused(rotate({ ...client, id: randomUUID() }, stranger), 404);
      await refused(rotate({ ...client, id: 'not-an-id' }, stranger), 404);
      await refused(read(client, stranger), 404);
      assert.deepEqual(await read(client), client);
    });

    it('refuses a caller without credentials', async () => {
      const client = await newClient();
      const { medplum: nobody, exchanges } = connect(server.baseUrl);
      await refused(rotate(client, nobody), 401);
      assert.deepEqual(exchanges, [`401 POST /fhir/R4/ClientApplication/${client.id}/$rotate-secret`]);
    });
  });

  describe('the resource', () => {
    it('is created, searched, patched and deleted', async () => {
      const name = `Lab ${randomUUID()}`;
      const created = await admin.createResource({ resourceType: 'ClientApplication', name });
      assert.equal(created.name, name);

      const found = await admin.searchResources('ClientApplication', { name });
      assert.deepEqual(found.map(({ id }) => id), [created.id]);
      assert.equal(found.bundle.type, 'searchset');

      const patched = await admin.patchResource('ClientApplication', created.id, [
        { op: 'add', path: '/description', value: 'Results interface' },
      ]);
      assert.equal(patched.description, 'Results interface');
      assert.equal(patched.secret, created.secret);

      await admin.deleteResource('ClientApplication', created.id);
      await refused(read(created), 410);
      await refused(rotate({ ...created, secret: operator.secret }), 410);
      assert.equal((await admin.searchResources('ClientApplication', { name })).length, 0);
    });

    it('lets nobody in once it is deleted', async () => {
      const client = await newClient();
      const medplum = await grants(client.id, client.secret);
      await admin.deleteResource('ClientApplication', client.id);
      await shutsOut(client.id, client.secret);
      await assert.rejects(read(client, medplum));
    });

    it('names its project and author to a client in extended mode only', async () => {
      const client = await newClient();
      assert.equal(client.meta.project, project.id);
      assert.equal(client.meta.author.reference, `ClientApplication/${operator.id}`);
      const rotated = await rotate(client);
      assert.equal(rotated.meta.project, project.id);
      assert.equal(rotated.meta.author.reference, `ClientApplication/${operator.id}`);

      const { medplum: plain } = connect(server.baseUrl, { extendedMode: false });
      await plain.startClientLogin(operator.id, operator.secret);
      const { meta } = await read(client, plain);
      assert.equal('project' in meta, false);
      assert.equal('author' in meta, false);
    });

    it('is read in the batches that the client makes by itself', async () => {
      const { medplum, exchanges } = connect(server.baseUrl, { autoBatchTime: 1 });
      await medplum.startClientLogin(operator.id, operator.secret);
      exchanges.length = 0;

      const clients = [await newClient(), await newClient()];
      assert.deepEqual(await Promise.all(clients.map((client) => read(client, medplum))), clients);
      assert.deepEqual(exchanges, ['200 POST /fhir/R4']);
    });
  });

  // Last, so that everything above has had its chance to leak.
  it('writes no secret to the log', () => showsNoSecret(server.log()));

  /** A secret lets its client in when it does so by token and by Basic on the FHIR API itself. */
  async function letsIn(id, secret) {
    await grants(id, secret);

    const { medplum, exchanges } = connect(server.baseUrl);
    medplum.setBasicAuth(id, secret);
    assert.equal((await read({ id }, medplum)).id, id);
    // One exchange, so it was Basic that was accepted: after a 401 the client would have fetched a token.
    assert.deepEqual(exchanges, [`200 GET /fhir/R4/ClientApplication/${id}`]);
  }

  async function shutsOut(id, secret) {
    await refusesToGrant(id, secret);

    const { medplum, exchanges } = connect(server.baseUrl);
    medplum.setBasicAuth(id, secret);
    await assert.rejects(read({ id }, medplum), OperationOutcomeError);
    assert.deepEqual(exchanges, [`401 GET /fhir/R4/ClientApplication/${id}`, '401 POST /oauth2/token']);
  }

  async function grants(id, secret) {
    const { medplum, exchanges } = connect(server.baseUrl);
    const profile = await medplum.startClientLogin(id, secret);
    assert.equal(profile.id, id);
    assert.equal(medplum.getProfile().id, id);
    assert.deepEqual(exchanges, ['200 POST /oauth2/token', '200 GET /auth/me']);
    return medplum;
  }

  /** The words of the refusal. */
  async function refusesToGrant(id, secret) {
    const { medplum, exchanges } = connect(server.baseUrl);
    const error = await medplum.startClientLogin(id, secret).then(() => assert.fail('a token was granted'), (e) => e);
    assert.match(error.message, /^Failed to fetch tokens: ./);
    assert.deepEqual(exchanges, ['401 POST /oauth2/token']);
    assert.equal(medplum.getAccessToken(), undefined);
    return error.message;
  }

  /** The client passes on no HTTP status; its users read it off the outcome with `getStatus`. */
  async function refused(promise, status, text) {
    await assert.rejects(promise, (error) => {
      assert(error instanceof OperationOutcomeError, error);
      assert.equal(getStatus(error.outcome), status, error.message);
      assert.equal(error.outcome.issue[0].severity, 'error');
      if (text) {
        assert.equal(error.outcome.issue[0].details.text, text);
      }
      return true;
    });
  }

  function showsNoSecret(shown) {
    const text = typeof shown === 'string' ? shown : JSON.stringify(shown);
    for (const secret of secretsSeen) {
      assert.equal(text.includes(secret), false, 'a secret is shown');
    }
  }
});
