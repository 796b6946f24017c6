"""Sets the stage: a project, its clients and a person, made by the admin over plain HTTP."""

import json

import requests

from browser import log_in

EMAIL = "ann@example.test"
PASSWORD = "four plain words here"
REDIRECT = "https://app.example.test/back"


class Project:
    """A new project with its admin. What the clients under test do, they do through their own libraries."""

    def __init__(self, server, name):
        self.server = server
        self._auth = (server.bootstrap["clientId"], server.bootstrap["clientSecret"])
        self.id = self._send("POST", "fhir/R4/Project", {"resourceType": "Project", "name": name})["id"]
        operator = self.new_client(name="Operator")
        profile = f"ClientApplication/{operator['id']}"
        [entry] = self._send("GET", f"fhir/R4/ProjectMembership?profile={profile}")["entry"]
        patch = [{"op": "add", "path": "/admin", "value": True}]
        self._patch(f"ProjectMembership/{entry['resource']['id']}", patch)
        self._auth = (operator["id"], operator["secret"])

    def new_client(self, **body):
        """A client application with a secret."""
        return self._send("POST", f"admin/projects/{self.id}/client", {"name": "Robot", **body})

    def new_webhook(self, url):
        """A webhook, with the secret that it is signed with."""
        return self._send("POST", f"admin/projects/{self.id}/webhooks", {"url": url})

    def new_public_client(self):
        """A client application that has nothing to prove itself by."""
        resource = {"resourceType": "ClientApplication", "name": "Viewer", "redirectUris": [REDIRECT]}
        return self._send("POST", "fhir/R4/ClientApplication", resource)

    def rotate(self, client):
        """Makes the secret retiring; gives the client with its two secrets."""
        return self._rotate_secret(client, "secret")

    def retire(self, client):
        """Ends the retiring secret."""
        return self._rotate_secret(client, "retiringSecret")

    def publish_key(self, client, public_jwk):
        """Publishes a public key of a client."""
        patch = [{"op": "add", "path": "/jwks", "value": json.dumps({"keys": [public_jwk]})}]
        self._patch(f"ClientApplication/{client['id']}", patch)

    def invite(self):
        """Makes the account of the person who logs in."""
        person = {
            "resourceType": "Practitioner",
            "firstName": "Ann",
            "lastName": "Doe",
            "email": EMAIL,
            "password": PASSWORD,
            "sendEmail": False,
        }
        self._send("POST", f"admin/projects/{self.id}/invite", person)

    def log_in(self, url):
        """Logs the person in at the URL of an authorization request; gives where the browser is sent."""
        answers = {"sign-in": {"email": EMAIL, "password": PASSWORD}, "consent": {"decision": "allow"}}
        return log_in(url, answers)

    def is_let_in(self, token):
        """Whether the FHIR API takes an access token, at something that every member may read."""
        headers = {"Authorization": f"Bearer {token}"}
        answer = requests.get(f"{self.server.fhir_url}/Practitioner", headers=headers, timeout=30)
        assert answer.status_code in (200, 401), answer.text
        return answer.status_code == 200

    def discover(self, document):
        """A metadata document, for libraries that leave fetching it to their user."""
        answer = requests.get(f"{self.server.base_url}.well-known/{document}", timeout=30)
        answer.raise_for_status()
        return answer.json()

    def _rotate_secret(self, client, slot):
        parameter = {"name": slot, "valueString": client[slot]}
        body = {"resourceType": "Parameters", "parameter": [parameter]}
        return self._send("POST", f"fhir/R4/ClientApplication/{client['id']}/$rotate-secret", body)

    def _patch(self, path, operations):
        self._send("PATCH", f"fhir/R4/{path}", operations, "application/json-patch+json")

    def _send(self, method, path, body=None, media="application/json"):
        answer = requests.request(
            method,
            self.server.base_url + path,
            auth=self._auth,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": media},
            timeout=30,
        )
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()
