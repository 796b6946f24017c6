"""Authlib, configured from the OpenID configuration alone, as it does inside of web frameworks."""

import time
import unittest
from urllib.parse import parse_qs, urlsplit

from authlib.integrations.base_client import FrameworkIntegration
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.base_client.sync_app import BaseApp, OAuth2Mixin
from authlib.integrations.base_client.sync_openid import OpenIDMixin
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.errors import InvalidClaimError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from project import EMAIL, REDIRECT, Project
from server import Server


def setUpModule():
    global server, project
    server = Server()
    unittest.addModuleCleanup(server.stop)
    project = Project(server, "Cardiology")
    project.invite()


class NoFramework(FrameworkIntegration):
    """Authlib's applications tell their web framework of new tokens."""

    def update_token(self, token, refresh_token=None, access_token=None):
        pass


class Application(OAuth2Mixin, OpenIDMixin, BaseApp):
    client_cls = OAuth2Session


def application(client_id, secret, **settings):
    metadata = f"{server.base_url}.well-known/openid-configuration"
    methods = settings.pop("client_auth_methods", None)
    return Application(
        NoFramework("keyrelay"),
        client_id=client_id,
        client_secret=secret,
        server_metadata_url=metadata,
        client_auth_methods=methods,
        client_kwargs=settings,
    )


class ClientCredentials(unittest.TestCase):
    def test_both_secrets_of_a_rotation_are_accepted_and_a_retired_one_is_not(self):
        for method in ("client_secret_basic", "client_secret_post"):
            with self.subTest(method):
                client = project.new_client()
                rotated = project.rotate(client)

                def grant(secret):
                    app = application(client["id"], secret, token_endpoint_auth_method=method)
                    return app.fetch_access_token(grant_type="client_credentials")

                for secret in (rotated["retiringSecret"], rotated["secret"]):
                    self.assertTrue(project.is_let_in(grant(secret)["access_token"]))
                project.retire(rotated)
                with self.assertRaises(OAuthError) as refused:
                    grant(client["secret"])
                self.assertEqual(refused.exception.error, "invalid_client")
                grant(rotated["secret"])

    def test_signed_assertions_are_accepted(self):
        algorithms = {
            "RS384": lambda: RSAKey.generate_key(2048),
            "ES384": lambda: ECKey.generate_key("P-384"),
            "RS256": lambda: RSAKey.generate_key(2048),
            "ES256": lambda: ECKey.generate_key("P-256"),
            "EdDSA": lambda: OKPKey.generate_key("Ed25519"),
        }
        for algorithm, make_key in algorithms.items():
            with self.subTest(algorithm):
                key = make_key()
                client = project.new_client()
                project.publish_key(client, {**key.as_dict(private=False), "kid": "k1", "use": "sig"})

                def grant(key):
                    # By itself it would sign for an hour; SMART allows five minutes.
                    claims = {"exp": int(time.time()) + 240}
                    method = PrivateKeyJWT(alg=algorithm, headers={"kid": "k1"}, claims=claims)
                    app = application(
                        client["id"],
                        key,
                        token_endpoint_auth_method="private_key_jwt",
                        client_auth_methods=[method],
                    )
                    return app.fetch_access_token(grant_type="client_credentials")

                self.assertTrue(project.is_let_in(grant(key)["access_token"]))
                with self.assertRaises(OAuthError) as refused:
                    grant(make_key())
                self.assertEqual(refused.exception.error, "invalid_client")


class People(unittest.TestCase):
    def log_in(self, client):
        secret = client.get("secret")
        app = application(
            client["id"],
            secret,
            scope="openid profile email fhirUser offline_access",
            code_challenge_method="S256",
            token_endpoint_auth_method="client_secret_basic" if secret else "none",
        )
        sent = app.create_authorization_url(REDIRECT)
        back = parse_qs(urlsplit(project.log_in(sent["url"])).query)
        self.assertEqual((back["state"], back["iss"]), ([sent["state"]], [server.base_url]))
        token = app.fetch_access_token(REDIRECT, code=back["code"][0], code_verifier=sent["code_verifier"])
        return app, sent, token

    def test_a_person_logs_in_by_code_and_pkce(self):
        for client in (project.new_client(redirectUris=[REDIRECT]), project.new_public_client()):
            with self.subTest(confidential="secret" in client):
                app, sent, token = self.log_in(client)
                # The library checks signature, issuer, audience, times and nonce.
                person = app.parse_id_token(token, nonce=sent["nonce"])
                self.assertEqual(person["email"], EMAIL)
                self.assertRegex(person["fhirUser"], "/fhir/R4/Practitioner/")
                with self.assertRaises(InvalidClaimError):
                    app.parse_id_token(token, nonce="another")
                self.assertEqual(app.userinfo(token=token)["sub"], person["sub"])
                self.assertTrue(project.is_let_in(token["access_token"]))

    def test_a_login_is_refreshed_introspected_and_revoked(self):
        app, _, token = self.log_in(project.new_client(redirectUris=[REDIRECT]))
        metadata = app.load_server_metadata()
        with OAuth2Session(app.client_id, app.client_secret) as session:
            fresh = session.refresh_token(metadata["token_endpoint"], token["refresh_token"])
            self.assertNotEqual(fresh["refresh_token"], token["refresh_token"])

            def active():
                answer = session.introspect_token(metadata["introspection_endpoint"], fresh["access_token"])
                return answer.json()["active"]

            self.assertTrue(active())
            answer = session.revoke_token(
                metadata["revocation_endpoint"], fresh["refresh_token"], token_type_hint="refresh_token"
            )
            self.assertEqual(answer.status_code, 200)
            self.assertFalse(active())
            self.assertFalse(project.is_let_in(fresh["access_token"]))
            with self.assertRaises(OAuthError) as refused:
                session.refresh_token(metadata["token_endpoint"], fresh["refresh_token"])
            self.assertEqual(refused.exception.error, "invalid_grant")


if __name__ == "__main__":
    unittest.main()
