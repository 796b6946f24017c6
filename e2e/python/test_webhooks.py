"""standardwebhooks, the published library of the specification."""

import http.server
import queue
import threading
import unittest

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from project import Project
from server import Server

WAIT_MAX_S = 30


class Receiver(http.server.BaseHTTPRequestHandler):
    """Receives webhooks, and keeps each until somebody asks for it."""

    received = queue.Queue()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.received.put((dict(self.headers), body))

    def log_message(self, *_):
        pass


def setUpModule():
    global project, url
    server = Server()
    unittest.addModuleCleanup(server.stop)
    project = Project(server, "Cardiology")
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    unittest.addModuleCleanup(receiver.server_close)
    unittest.addModuleCleanup(receiver.shutdown)
    url = f"http://127.0.0.1:{receiver.server_port}/keyrelay"


class Verification(unittest.TestCase):
    def test_what_is_sent_is_verified_by_the_published_library(self):
        webhook = project.new_webhook(url)
        client = project.new_client()
        project.rotate(client)
        headers, body = Receiver.received.get(timeout=WAIT_MAX_S)
        told = Webhook(webhook["secret"]).verify(body.decode(), headers)
        self.assertEqual(told["type"], "client.secret.rotated")
        self.assertEqual(told["data"]["client"], f"ClientApplication/{client['id']}")
        with self.assertRaises(WebhookVerificationError):
            Webhook(webhook["secret"]).verify(body.decode() + " ", headers)


if __name__ == "__main__":
    unittest.main()
