// What both test files need of the Medplum client: a connection that hides nothing,
// a project with an admin, and the operation in the words of its documentation.

import { ClientStorage, MedplumClient, MemoryStorage } from '@medplum/core';

/**
 * A client that shares no state with any other, and a list of the exchanges it really had,
 * each as `"200 GET /auth/me"`. The list matters: on a 401 the client silently tries another way to log in.
 */
export function connect(baseUrl, options) {
  const exchanges = [];
  const medplum = new MedplumClient({
    baseUrl,
    cacheTime: 0,
    // A 5xx that succeeds on the second attempt is still a failure here.
    maxRetries: 0,
    // Newer Node versions have a `localStorage` for the whole process, which the client would pick up.
    storage: new ClientStorage(new MemoryStorage()),
    fetch: async (url, init) => {
      const response = await fetch(url, init);
      exchanges.push(`${response.status} ${init.method} ${new URL(url).pathname}`);
      return response;
    },
    ...options,
  });
  return { medplum, exchanges };
}

/** A new project, with a client application that administers it. The Super Admin makes both. */
export async function createProject(server, name) {
  const { medplum: superAdmin } = connect(server.baseUrl);
  await superAdmin.startClientLogin(server.bootstrap.clientId, server.bootstrap.clientSecret);

  const project = await superAdmin.createResource({ resourceType: 'Project', name });
  const client = await superAdmin.post(`admin/projects/${project.id}/client`, { name: `${name} operator` });
  const membership = await superAdmin.searchOne('ProjectMembership', {
    project: `Project/${project.id}`,
    profile: `ClientApplication/${client.id}`,
  });
  await superAdmin.patchResource('ProjectMembership', membership.id, [{ op: 'add', path: '/admin', value: true }]);

  const { medplum: admin } = connect(server.baseUrl);
  await admin.startClientLogin(client.id, client.secret);
  return { superAdmin, project, client, admin };
}

/** Input of `$rotate-secret`. `slot` is `secret` to rotate and `retiringSecret` to retire. */
export function presenting(slot, value) {
  return { resourceType: 'Parameters', parameter: [{ name: slot, valueString: value }] };
}
