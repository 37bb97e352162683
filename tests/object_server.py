"""moto's S3 server as a separate process, with extra routes for tests.

    python tests/object_server.py [ADDRESS]    prints its URL, then serves until it is terminated

- ``POST /-/older?bucket=&key=&seconds=`` sets an object's modification time back.
- ``POST /-/fail?method=&status=&times=`` makes the next requests with that method fail.
- ``POST /-/fill?bucket=&prefix=&count=`` creates empty objects.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

from moto.backends import get_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

ACCOUNT = "123456789012"
Application = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]


class TestControls:
    """WSGI middleware that handles the extra routes and passes all other requests on."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._failing: list[tuple[str, str]] = []

    def __call__(self, environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        query = {name: values[-1] for name, values in parse_qs(environment.get("QUERY_STRING", "")).items()}
        path, method = environment["PATH_INFO"], environment["REQUEST_METHOD"]
        if path == "/-/older":
            self._older(query)
        elif path == "/-/fill":
            self._fill(query)
        elif path == "/-/fail":
            self._failing += [(query["method"], query["status"])] * int(query["times"])
        elif self._failing and self._failing[0][0] == method:
            start(f"{self._failing.pop(0)[1]} On request", [("Content-Length", "0")])
            return []
        else:
            return self._application(environment, start)
        start("204 No Content", [])
        return []

    def _fill(self, query: dict[str, str]) -> None:
        for i in range(int(query["count"])):
            get_backend("s3")[ACCOUNT]["aws"].put_object(query["bucket"], f"{query['prefix']}/{i:064x}", b"")

    def _older(self, query: dict[str, str]) -> None:
        backend: Any = get_backend("s3")[ACCOUNT]["aws"]
        held = backend.get_object(query["bucket"], query["key"])
        held.last_modified -= timedelta(seconds=float(query["seconds"]))


def main() -> None:
    """Serve on a free port of an address, 127.0.0.1 by default."""
    host = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
    application = TestControls(DomainDispatcherApplication(create_backend_app))
    server = make_server(host, 0, application, threaded=True)
    sys.stdout.write(f"http://{host}:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
