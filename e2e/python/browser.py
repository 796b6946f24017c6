"""Plays the browser of a person who logs in: keeps cookies, fills in forms, and stops where a redirect
leaves the server."""

from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import requests

STEPS_MAX = 5


class _Form(HTMLParser):
    """The form of a page: where it leads, and what it sends along."""

    def __init__(self, html):
        super().__init__()
        self.action, self.hidden, self.scripts = None, {}, 0
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "form":
            self.action = given["action"]
        elif tag == "input" and given.get("type") == "hidden":
            self.hidden[given["name"]] = given["value"]
        elif tag == "script":
            self.scripts += 1


def log_in(url, answers):
    """Follows the pages from `url`, answering each step from `answers`; gives the URL they lead to."""
    with requests.Session() as session:
        page = session.get(url, allow_redirects=False, timeout=30)
        for _ in range(STEPS_MAX):
            if page.status_code == 303:
                return page.headers["Location"]
            assert page.status_code == 200, page.text
            form = _Form(page.text)
            assert form.scripts == 0, page.text
            action, origin = urljoin(page.url, form.action), "{0.scheme}://{0.netloc}".format(urlsplit(page.url))
            filled = {**form.hidden, **answers[form.hidden["step"]]}
            page = session.post(
                action, data=filled, headers={"Origin": origin}, allow_redirects=False, timeout=30
            )
    raise AssertionError("too many steps")
