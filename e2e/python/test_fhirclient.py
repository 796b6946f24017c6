"""fhirclient, the SMART client of Python, configured from the CapabilityStatement alone."""

import logging
import time
import unittest
import uuid

from fhirclient.client import FHIRClient
from fhirclient.server import FHIRUnauthorizedException
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from project import REDIRECT, Project
from server import Server


def setUpModule():
    global server, project
    # It warns of each ID token, which it does not read.
    logging.getLogger("fhirclient").setLevel(logging.ERROR)
    server = Server()
    unittest.addModuleCleanup(server.stop)
    project = Project(server, "Cardiology")
    project.invite()


def connect(client, **settings):
    smart = FHIRClient(settings={"app_id": client["id"], "api_base": server.fhir_url, **settings})
    # It would ask for the scope of a patient's launch.
    smart.wants_patient = False
    smart.prepare()
    return smart


def backend(client, **settings):
    return connect(client, scope="system/*.read", **settings)


def names(smart, path):
    """The names of what a search finds, asked for by the library with the token that it holds."""
    bundle = smart.server.request_json(path)
    return [entry["resource"].get("name") for entry in bundle.get("entry", [])]


class ClientCredentials(unittest.TestCase):
    def test_both_secrets_of_a_rotation_are_accepted_and_a_retired_one_is_not(self):
        client = project.new_client()
        rotated = project.rotate(client)
        for secret in (rotated["retiringSecret"], rotated["secret"]):
            smart = backend(client, app_secret=secret)
            smart.authorize()
            self.assertTrue(smart.ready)
            self.assertEqual(names(smart, "Project"), ["Cardiology"])
        project.retire(rotated)
        with self.assertRaises(FHIRUnauthorizedException):
            backend(client, app_secret=client["secret"]).authorize()
        backend(client, app_secret=rotated["secret"]).authorize()

    def test_signed_assertions_are_accepted_each_once(self):
        for algorithm, key in (("RS384", RSAKey.generate_key(2048)), ("ES384", ECKey.generate_key("P-384"))):
            with self.subTest(algorithm):
                client = project.new_client()
                project.publish_key(client, {**key.as_dict(private=False), "kid": "k1", "use": "sig"})
                claims = {
                    "iss": client["id"],
                    "sub": client["id"],
                    "aud": project.discover("smart-configuration")["token_endpoint"],
                    "exp": int(time.time()) + 240,
                    "jti": str(uuid.uuid4()),
                }
                header = {"alg": algorithm, "kid": "k1", "typ": "JWT"}
                assertion = jwt.encode(header, claims, key, algorithms=[algorithm])
                smart = backend(client, jwt_token=assertion)
                smart.authorize()
                self.assertEqual(names(smart, "Project"), ["Cardiology"])
                with self.assertRaises(FHIRUnauthorizedException):
                    backend(client, jwt_token=assertion).authorize()


class People(unittest.TestCase):
    def test_a_person_logs_in_by_code_and_pkce_and_stays(self):
        confidential, public = project.new_client(redirectUris=[REDIRECT]), project.new_public_client()
        for client in (confidential, public):
            with self.subTest(confidential=client is confidential):
                smart = connect(
                    client,
                    app_secret=client.get("secret"),
                    redirect_uri=REDIRECT,
                    scope="openid fhirUser user/*.read offline_access",
                )
                smart.handle_callback(project.log_in(smart.authorize_url))
                self.assertEqual(names(smart, "Project"), ["Cardiology"])
                self.assertIn("id_token", smart.launch_context)
                before = smart.server.auth.refresh_token
                self.assertTrue(smart.reauthorize())
                self.assertNotEqual(smart.server.auth.refresh_token, before)
                self.assertEqual(names(smart, "Project"), ["Cardiology"])


if __name__ == "__main__":
    unittest.main()
