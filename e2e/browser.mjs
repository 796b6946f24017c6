// Plays the browser of a person who logs in: keeps cookies, fills in forms, and stops where a redirect
// leaves the server.

import assert from 'node:assert/strict';

/** Follows a page with forms from `url` until the server sends the browser elsewhere; gives that URL. */
export async function logIn(url, answers) {
  const cookies = new Map();
  let response = await request(url);
  for (let step = 0; step < 5; step++) {
    if (response.status === 303) {
      return new URL(response.headers.get('location'));
    }
    const html = await response.text();
    assert.equal(response.status, 200, html);
    assert.doesNotMatch(html, /<script/i);
    const action = /<form method="post" action="([^"]*)"/.exec(html)?.[1].replaceAll('&#38;', '&').replaceAll('&amp;', '&');
    const hidden = Object.fromEntries(
      [...html.matchAll(/<input type="hidden" name="([^"]*)" value="([^"]*)">/g)].map(([, name, value]) => [name, value])
    );
    assert(action && answers[hidden.step], `no answer to the step ${hidden.step} of ${html}`);
    response = await request(action, { ...hidden, ...answers[hidden.step] });
  }
  assert.fail('too many steps');

  async function request(target, form) {
    const answer = await fetch(target, {
      method: form ? 'POST' : 'GET',
      body: form && new URLSearchParams(form),
      headers: {
        cookie: [...cookies].map((pair) => pair.join('=')).join('; '),
        origin: new URL(target).origin,
      },
      redirect: 'manual',
    });
    for (const cookie of answer.headers.getSetCookie()) {
      const [pair] = cookie.split(';');
      const at = pair.indexOf('=');
      cookies.set(pair.slice(0, at), pair.slice(at + 1));
    }
    return answer;
  }
}
