// OAuth and OpenID Connect libraries that know nothing of Keyrelay, configured from discovery alone:
// openid-client, oauth4webapi, and the way @medplum/core logs a person in.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';

import * as oauth from 'oauth4webapi';
import * as openid from 'openid-client';

import { logIn } from './browser.mjs';
import { connect, createProject, presenting } from './project.mjs';
import { startServer } from './server.mjs';

const EMAIL = 'ann@example.test';
const PASSWORD = 'four plain words here';
const REDIRECT = 'https://app.example.test/back';
const ANSWERS = { 'sign-in': { email: EMAIL, password: PASSWORD }, consent: { decision: 'allow' } };
const insecure = { [oauth.allowInsecureRequests]: true };

let server, admin, project;

before(async () => {
  server = await startServer();
  ({ admin, project } = await createProject(server, 'Cardiology'));
  await admin.invite(project.id, {
    resourceType: 'Practitioner',
    firstName: 'Ann',
    lastName: 'Doe',
    email: EMAIL,
    password: PASSWORD,
    sendEmail: false,
  });
});

after(() => server?.stop());

const newClient = (body = {}) => admin.post(`admin/projects/${project.id}/client`, { name: 'Robot', ...body });

/** A client application that has nothing to prove itself by. */
const newPublicClient = (redirect = REDIRECT) =>
  admin.createResource({ resourceType: 'ClientApplication', name: 'Viewer', redirectUris: [redirect] });

const rotate = (client) =>
  admin.post(admin.fhirUrl('ClientApplication', client.id, '$rotate-secret'), presenting('secret', client.secret));

const retire = (client) =>
  admin.post(
    admin.fhirUrl('ClientApplication', client.id, '$rotate-secret'),
    presenting('retiringSecret', client.retiringSecret)
  );

const fhir = (token, path) =>
  fetch(new URL(`fhir/R4/${path}`, server.baseUrl), { headers: { authorization: `Bearer ${token}` } });

/** An initial access token, by which one client registers itself. */
const initialAccessToken = async () =>
  (await admin.post(`admin/projects/${project.id}/registration`, {})).initial_access_token;

/** The key pair of a client, its public part published in the client application. */
async function publishKey(client, algorithm) {
  const pair = await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const jwk = { ...(await crypto.subtle.exportKey('jwk', pair.publicKey)), kid: 'k1', use: 'sig' };
  delete jwk.key_ops;
  delete jwk.ext;
  const jwks = JSON.stringify({ keys: [jwk] });
  await admin.patchResource('ClientApplication', client.id, [{ op: 'add', path: '/jwks', value: jwks }]);
  return { key: pair.privateKey, kid: 'k1' };
}

/** A signed assertion of who a client is (RFC 7523), for libraries that take one and make none. */
async function assertion(client, { key, kid }) {
  const encode = (value) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const claims = { iss: client.id, sub: client.id, aud: `${server.baseUrl}oauth2/token`, jti: randomUUID(), exp: now + 240 };
  const alg = key.algorithm.name === 'ECDSA' ? 'ES384' : 'RS384';
  const signed = `${encode({ alg, kid, typ: 'JWT' })}.${encode(claims)}`;
  const signature = await crypto.subtle.sign({ name: key.algorithm.name, hash: 'SHA-384' }, key, Buffer.from(signed));
  return `${signed}.${Buffer.from(signature).toString('base64url')}`;
}

/** Whether a library was told that the client is not who it says. */
function isInvalidClient(error) {
  assert.match(`${error.error} ${error.cause?.error} ${error.status}`, /invalid_client|401/);
  return true;
}

const ES384 = { name: 'ECDSA', namedCurve: 'P-384' };
const RS384 = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-384', modulusLength: 2048, publicExponent: new Uint8Array([1, 0, 1]) };
const KEYS = [['ES384', ES384], ['RS384', RS384]];

describe('openid-client', () => {
  const discover = (id, secret, method) =>
    openid.discovery(new URL(server.baseUrl), id, secret, method, { execute: [openid.allowInsecureRequests] });

  for (const [name, method] of [
    ['client_secret_basic', openid.ClientSecretBasic],
    ['client_secret_post', openid.ClientSecretPost],
  ]) {
    it(`is let in by ${name} with both secrets of a rotation, and not after retiring`, async () => {
      const before = await newClient();
      const after = await rotate(before);
      for (const secret of [before.secret, after.secret]) {
        const config = await discover(before.id, secret, method(secret));
        const tokens = await openid.clientCredentialsGrant(config);
        assert.equal((await fhir(tokens.access_token, 'Project')).status, 200);
      }
      await retire(after);
      const config = await discover(before.id, before.secret, method(before.secret));
      await assert.rejects(openid.clientCredentialsGrant(config), isInvalidClient);
    });
  }

  for (const [name, algorithm] of KEYS) {
    it(`is let in by private_key_jwt with ${name}, and not by another key`, async () => {
      const client = await newClient();
      const key = await publishKey(client, algorithm);
      const grant = async () =>
        openid.clientCredentialsGrant(await discover(client.id, undefined, openid.PrivateKeyJwt(key)));
      assert.equal((await fhir((await grant()).access_token, 'Project')).status, 200);
      await publishKey(client, algorithm);
      await assert.rejects(grant(), isInvalidClient);
    });
  }

  it('logs a person in by code and PKCE as a public client, and refreshes', async () => {
    const config = await discover((await newPublicClient()).id, undefined, openid.None());
    const verifier = openid.randomPKCECodeVerifier();
    const url = openid.buildAuthorizationUrl(config, {
      redirect_uri: REDIRECT,
      scope: 'openid offline_access',
      code_challenge: await openid.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
    });
    const tokens = await openid.authorizationCodeGrant(config, await logIn(url, ANSWERS), { pkceCodeVerifier: verifier });
    const fresh = await openid.refreshTokenGrant(config, tokens.refresh_token);
    assert.notEqual(fresh.refresh_token, tokens.refresh_token);
    assert.equal((await fhir(fresh.access_token, 'Practitioner')).status, 200);
  });

  it('logs a person in by code and PKCE, refreshes, asks who it is, introspects and revokes', async () => {
    const client = await newClient({ redirectUris: [REDIRECT] });
    const config = await discover(client.id, client.secret);
    const verifier = openid.randomPKCECodeVerifier();
    const [state, nonce] = [openid.randomState(), openid.randomNonce()];
    const url = openid.buildAuthorizationUrl(config, {
      redirect_uri: REDIRECT,
      scope: 'openid profile email fhirUser offline_access',
      code_challenge: await openid.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
      state,
      nonce,
    });
    const back = await logIn(url, ANSWERS);
    const tokens = await openid.authorizationCodeGrant(config, back, {
      pkceCodeVerifier: verifier,
      expectedState: state,
      expectedNonce: nonce,
    });
    const { sub, fhirUser, email } = tokens.claims();
    assert.equal(email, EMAIL);
    assert.match(fhirUser, /\/fhir\/R4\/Practitioner\//);
    assert.equal((await openid.fetchUserInfo(config, tokens.access_token, sub)).email, EMAIL);

    const fresh = await openid.refreshTokenGrant(config, tokens.refresh_token);
    assert.notEqual(fresh.refresh_token, tokens.refresh_token);
    assert.equal((await openid.tokenIntrospection(config, fresh.access_token)).active, true);
    await openid.tokenRevocation(config, fresh.refresh_token);
    assert.equal((await openid.tokenIntrospection(config, fresh.access_token)).active, false);
    await assert.rejects(openid.refreshTokenGrant(config, fresh.refresh_token));
  });
});

describe('dynamic registration', () => {
  it('lets openid-client register itself, and log a person in', async () => {
    const metadata = { client_name: 'Viewer', redirect_uris: [REDIRECT], scope: 'openid fhirUser' };
    const config = await openid.dynamicClientRegistration(new URL(server.baseUrl), metadata, undefined, {
      initialAccessToken: await initialAccessToken(),
      execute: [openid.allowInsecureRequests],
    });
    const verifier = openid.randomPKCECodeVerifier();
    const url = openid.buildAuthorizationUrl(config, {
      redirect_uri: REDIRECT,
      scope: metadata.scope,
      code_challenge: await openid.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
    });
    const tokens = await openid.authorizationCodeGrant(config, await logIn(url, ANSWERS), { pkceCodeVerifier: verifier });
    assert.match(tokens.claims().fhirUser, /Practitioner/);
  });

  it('lets oauth4webapi register itself; the client then rotates its own secret, and is never locked out', async () => {
    const issuer = new URL(server.baseUrl);
    const as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, insecure));
    const metadata = { client_name: 'Partner', grant_types: ['client_credentials'] };
    const token = await initialAccessToken();
    const request = () => oauth.dynamicClientRegistrationRequest(as, metadata, { initialAccessToken: token, ...insecure });
    const client = await oauth.processDynamicClientRegistrationResponse(await request());
    await assert.rejects(oauth.processDynamicClientRegistrationResponse(await request()));

    const getsIn = async (secret) => {
      const response = await oauth.clientCredentialsGrantRequest(as, client, oauth.ClientSecretBasic(secret), {}, insecure);
      return response.status === 200;
    };
    const update = async (more) => {
      const response = await fetch(client.registration_client_uri, {
        method: 'PUT',
        headers: { authorization: `Bearer ${client.registration_access_token}`, 'content-type': 'application/json' },
        body: JSON.stringify({ ...metadata, client_id: client.client_id, ...more }),
      });
      assert.equal(response.status, 200);
      return response.json();
    };
    const [before, after] = [
      client.client_secret,
      (await update({ client_secret: client.client_secret, rotate_secret: true })).client_secret,
    ];
    assert.deepEqual([await getsIn(before), await getsIn(after)], [true, true]);
    await update({ retire_secret: before });
    assert.deepEqual([await getsIn(before), await getsIn(after)], [false, true]);
  });
});

describe('oauth4webapi', () => {
  const discover = async (algorithm) => {
    const issuer = new URL(server.baseUrl);
    const response = await oauth.discoveryRequest(issuer, { algorithm, ...insecure });
    return oauth.processDiscoveryResponse(issuer, response);
  };

  const grant = async (as, client, authenticate) => {
    const response = await oauth.clientCredentialsGrantRequest(as, client, authenticate, {}, insecure);
    return oauth.processClientCredentialsResponse(as, client, response);
  };

  /** The resource server's side: the token against the published keys (RFC 9068). */
  const isValidFor = async (as, tokens, id) => {
    const request = new Request(server.baseUrl, { headers: { authorization: `Bearer ${tokens.access_token}` } });
    const claims = await oauth.validateJwtAccessToken(as, request, server.baseUrl, insecure);
    assert.equal(claims.client_id, id);
  };

  for (const algorithm of ['oidc', 'oauth2']) {
    it(`is let in with both secrets of a rotation, and not after retiring, by ${algorithm} metadata`, async () => {
      const before = await newClient();
      const after = await rotate(before);
      const as = await discover(algorithm);
      const client = { client_id: before.id };
      const ways = [oauth.ClientSecretBasic, oauth.ClientSecretPost];
      for (const secret of [before.secret, after.secret]) {
        for (const way of ways) {
          await isValidFor(as, await grant(as, client, way(secret)), before.id);
        }
      }
      await retire(after);
      for (const way of ways) {
        await assert.rejects(grant(as, client, way(before.secret)), isInvalidClient);
        await grant(as, client, way(after.secret));
      }
    });
  }

  for (const [name, algorithm] of KEYS) {
    it(`is let in by private_key_jwt with ${name}, and not by another key`, async () => {
      const { id } = await newClient();
      const key = await publishKey({ id }, algorithm);
      const as = await discover('oauth2');
      await isValidFor(as, await grant(as, { client_id: id }, oauth.PrivateKeyJwt(key)), id);
      await publishKey({ id }, algorithm);
      await assert.rejects(grant(as, { client_id: id }, oauth.PrivateKeyJwt(key)), isInvalidClient);
    });
  }

  for (const confidential of [false, true]) {
    it(`logs a person in by code and PKCE as a ${confidential ? 'confidential' : 'public'} client, and refreshes`, async () => {
      const { id, secret } = await (confidential ? newClient({ redirectUris: [REDIRECT] }) : newPublicClient());
      const client = { client_id: id };
      const authenticate = confidential ? oauth.ClientSecretBasic(secret) : oauth.None();
      const as = await discover('oidc');
      const verifier = oauth.generateRandomCodeVerifier();
      const nonce = oauth.generateRandomNonce();
      const url = new URL(as.authorization_endpoint);
      url.search = new URLSearchParams({
        response_type: 'code',
        client_id: id,
        redirect_uri: REDIRECT,
        scope: 'openid fhirUser offline_access',
        state: 's1',
        nonce,
        code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
        code_challenge_method: 'S256',
      });
      const back = oauth.validateAuthResponse(as, client, await logIn(url, ANSWERS), 's1');
      const response = await oauth.authorizationCodeGrantRequest(as, client, authenticate, back, REDIRECT, verifier, insecure);
      const expected = { expectedNonce: nonce, requireIdToken: true };
      const tokens = await oauth.processAuthorizationCodeResponse(as, client, response, expected);
      assert.match(oauth.getValidatedIdTokenClaims(tokens).fhirUser, /\/fhir\/R4\/Practitioner\//);
      const again = await oauth.refreshTokenGrantRequest(as, client, authenticate, tokens.refresh_token, insecure);
      const fresh = await oauth.processRefreshTokenResponse(as, client, again);
      assert.notEqual(fresh.refresh_token, tokens.refresh_token);
      await isValidFor(as, fresh, id);
      assert.equal((await fhir(fresh.access_token, 'Practitioner')).status, 200);
    });
  }
});

describe('@medplum/core, for a client', () => {
  for (const [name, algorithm] of KEYS) {
    it(`is let in by a signed assertion with ${name}, once`, async () => {
      const client = await newClient();
      const jwt = await assertion(client, await publishKey(client, algorithm));
      const { medplum, exchanges } = connect(server.baseUrl);
      const profile = await medplum.startJwtAssertionLogin(jwt);
      assert.equal(profile.id, client.id);
      assert.deepEqual(exchanges, ['200 POST /oauth2/token', '200 GET /auth/me']);
      await assert.rejects(connect(server.baseUrl).medplum.startJwtAssertionLogin(jwt), /Failed to fetch tokens/);
    });
  }
});

describe('@medplum/core, for a person', () => {
  // It logs people in from a browser only: without `window` it knows no S256. Where it would send the
  // browser is kept.
  let sentTo;
  const comeTo = (url) => {
    globalThis.location = Object.assign(new URL(url), { assign: (target) => (sentTo = target) });
  };
  before(() => {
    globalThis.window = globalThis;
    comeTo(REDIRECT);
  });
  after(() => ['window', 'location'].forEach((name) => delete globalThis[name]));

  const HOURS_2_MS = 2 * 60 * 60 * 1000;

  /** Makes the library refresh: it is told that the token is over sooner than it is. */
  const refreshes = async (medplum, exchanges) => {
    const before = medplum.getActiveLogin();
    exchanges.length = 0;
    await medplum.refreshIfExpired(HOURS_2_MS);
    assert.deepEqual(exchanges.slice(0, 1), ['200 POST /oauth2/token']);
    const after = medplum.getActiveLogin();
    assert.notEqual(after.accessToken, before.accessToken);
    assert.notEqual(after.refreshToken, before.refreshToken);
    assert.equal((await fhir(medplum.getAccessToken(), 'Practitioner')).status, 200);
  };

  it('logs in, knows who it is, and logs out', async () => {
    const { medplum } = connect(server.baseUrl);
    const login = await medplum.startLogin({ email: EMAIL, password: PASSWORD });
    const profile = await medplum.processCode(login.code);
    assert.equal(profile.resourceType, 'Practitioner');
    assert.equal(medplum.getProfile().id, profile.id);
    assert.equal(medplum.getProject().id, project.id);
    const token = medplum.getAccessToken();
    assert.equal((await fhir(token, 'Practitioner')).status, 200);
    await medplum.signOut();
    assert.equal((await fhir(token, 'Practitioner')).status, 401);
  });

  for (const confidential of [false, true]) {
    it(`logs in to a ${confidential ? 'confidential' : 'public'} client by code and PKCE, and refreshes`, async () => {
      const { id, secret } = await (confidential ? newClient({ redirectUris: [REDIRECT] }) : newPublicClient());
      const { medplum, exchanges } = connect(server.baseUrl, { clientId: id });
      if (confidential) {
        medplum.setBasicAuth(id, secret);
      }
      const scope = 'openid fhirUser offline_access';
      const { code } = await medplum.startLogin({ email: EMAIL, password: PASSWORD, scope });
      const profile = await medplum.processCode(code);
      assert.equal(profile.resourceType, 'Practitioner');
      await refreshes(medplum, exchanges);
      await medplum.signOut();
    });
  }

  it('is sent to the sign-in pages and back, and refreshes', async () => {
    // It comes back to the root of its origin, whatever page it left.
    const origin = new URL('/', REDIRECT).href;
    const { id } = await newPublicClient(origin);
    const { medplum, exchanges } = connect(server.baseUrl, { clientId: id });
    comeTo(origin);
    await medplum.signInWithRedirect({ scope: 'openid fhirUser offline_access' });
    comeTo(await logIn(sentTo, ANSWERS));
    const profile = await medplum.signInWithRedirect();
    assert.equal(profile.resourceType, 'Practitioner');
    assert.equal(medplum.getProfile().id, profile.id);
    await refreshes(medplum, exchanges);
  });

  it('is told that a password is wrong', async () => {
    const { medplum } = connect(server.baseUrl);
    await assert.rejects(medplum.startLogin({ email: EMAIL, password: 'not the password' }), /Email or password is invalid/);
  });
});
