"""requests-oauthlib. It leaves fetching the metadata to its user, and signing assertions too."""

import os
import time
import unittest
import uuid
from unittest import mock

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from oauthlib.oauth2 import BackendApplicationClient
from oauthlib.oauth2.rfc6749.errors import InvalidClientError, InvalidGrantError
from requests_oauthlib import OAuth2Session

from project import REDIRECT, Project
from server import Server


def setUpModule():
    global server, project, metadata
    # It refuses to talk without TLS, also to a loopback address.
    insecure = mock.patch.dict(os.environ, {"OAUTHLIB_INSECURE_TRANSPORT": "1"})
    insecure.start()
    unittest.addModuleCleanup(insecure.stop)
    server = Server()
    unittest.addModuleCleanup(server.stop)
    project = Project(server, "Cardiology")
    project.invite()
    metadata = project.discover("oauth-authorization-server")


class ClientCredentials(unittest.TestCase):
    def test_both_secrets_of_a_rotation_are_accepted_and_a_retired_one_is_not(self):
        for in_body in (False, True):
            with self.subTest(in_body=in_body):
                client = project.new_client()
                rotated = project.rotate(client)

                def grant(secret):
                    session = OAuth2Session(client=BackendApplicationClient(client["id"]))
                    if in_body:
                        way = {"client_secret": secret, "include_client_id": True}
                    else:
                        way = {"auth": (client["id"], secret)}
                    session.fetch_token(metadata["token_endpoint"], **way)
                    return session

                for secret in (rotated["retiringSecret"], rotated["secret"]):
                    answer = grant(secret).get(f"{server.fhir_url}/Project")
                    self.assertEqual((answer.status_code, answer.json()["resourceType"]), (200, "Bundle"))
                project.retire(rotated)
                with self.assertRaises(InvalidClientError):
                    grant(client["secret"])
                grant(rotated["secret"])


    def test_signed_assertions_are_accepted_each_once(self):
        for algorithm, key in (("RS384", RSAKey.generate_key(2048)), ("ES384", ECKey.generate_key("P-384"))):
            with self.subTest(algorithm):
                client = project.new_client()
                project.publish_key(client, {**key.as_dict(private=False), "kid": "k1", "use": "sig"})
                claims = {
                    "iss": client["id"],
                    "sub": client["id"],
                    "aud": metadata["token_endpoint"],
                    "exp": int(time.time()) + 240,
                    "jti": str(uuid.uuid4()),
                }
                header = {"alg": algorithm, "kid": "k1", "typ": "JWT"}
                assertion = jwt.encode(header, claims, key, algorithms=[algorithm])

                def grant():
                    session = OAuth2Session(client=BackendApplicationClient(client["id"]))
                    return session.fetch_token(
                        metadata["token_endpoint"],
                        include_client_id=True,
                        client_assertion_type="urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                        client_assertion=assertion,
                    )

                self.assertTrue(project.is_let_in(grant()["access_token"]))
                with self.assertRaises(InvalidClientError):
                    grant()


class People(unittest.TestCase):
    def test_a_person_logs_in_by_code_and_pkce_and_stays(self):
        for client in (project.new_client(redirectUris=[REDIRECT]), project.new_public_client()):
            with self.subTest(confidential="secret" in client):
                session = OAuth2Session(
                    client["id"],
                    redirect_uri=REDIRECT,
                    scope=["openid", "fhirUser", "offline_access"],
                    pkce="S256",
                )
                url, _ = session.authorization_url(metadata["authorization_endpoint"])
                secret = client.get("secret")
                who = {"client_secret": secret} if secret else {"include_client_id": True}
                session.fetch_token(
                    metadata["token_endpoint"], authorization_response=project.log_in(url), **who
                )
                self.assertEqual(session.get(f"{server.fhir_url}/Practitioner").status_code, 200)
                before = session.token["refresh_token"]
                who = {"auth": (client["id"], secret)} if secret else {"client_id": client["id"]}
                session.refresh_token(metadata["token_endpoint"], **who)
                self.assertNotEqual(session.token["refresh_token"], before)
                self.assertEqual(session.get(f"{server.fhir_url}/Practitioner").status_code, 200)

    def test_a_code_needs_its_verifier(self):
        client = project.new_public_client()
        session = OAuth2Session(client["id"], redirect_uri=REDIRECT, scope=["openid"], pkce="S256")
        url, _ = session.authorization_url(metadata["authorization_endpoint"])
        back = project.log_in(url)
        stranger = OAuth2Session(
            client["id"], redirect_uri=REDIRECT, scope=["openid"], pkce="S256", state=session._state
        )
        stranger.authorization_url(metadata["authorization_endpoint"], state=session._state)
        with self.assertRaises(InvalidGrantError):
            stranger.fetch_token(
                metadata["token_endpoint"], authorization_response=back, include_client_id=True
            )


if __name__ == "__main__":
    unittest.main()
