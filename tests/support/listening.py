"""A webhook on 127.0.0.1 that keeps what it gets."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Listener:
    """What arrived, and how it answers."""

    def __init__(self):
        self.requests = []
        self.arrivals = []
        """The time on this process's clock and the body of each request that it answered with 200."""
        self.status = 200
        self.port = 0

    @property
    def events(self):
        return [json.loads(body)["event"] for _, _, body in self.requests]

    @property
    def payloads(self):
        return [json.loads(body) for _, _, body in self.requests]

    @property
    def accepted(self):
        """The payloads that it answered with 200, each with `arrived`."""
        return [json.loads(body) | {"arrived": arrived} for arrived, body in self.arrivals]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/hooks/SECRETPATH?token=SECRETTOKEN"


@contextmanager
def listening(port=0):
    """Serve a webhook; gives its listener."""
    listener = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            listener.requests.append((self.path, dict(self.headers), body))
            if listener.status == 200:
                listener.arrivals.append((time.monotonic(), body))
            self.send_response(listener.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        listener.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield listener
        finally:
            server.shutdown()
            thread.join()
