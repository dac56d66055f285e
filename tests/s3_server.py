"""A real S3 server (moto) in a process of its own, for tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys; from werkzeug.serving import make_server
from moto.server import DomainDispatcherApplication, create_backend_app
app = DomainDispatcherApplication(create_backend_app)
server = make_server('127.0.0.1', int(sys.argv[1]), app, threaded=True)
print(server.server_port, flush=True); server.serve_forever()
"""
BUCKET = "bucket"


class S3Server:
    """A server with one empty bucket, which the environment points to. A context manager.

    Skips the test when what it needs is not installed.

    Attributes
    ----------
    uri : str
        The bucket.
    """

    def __init__(self, log: Path) -> None:
        pytest.importorskip("s3fs")
        pytest.importorskip("moto.server", reason="moto[server] is not installed")
        self.uri = f"s3://{BUCKET}"
        self._log, self._port = log, "0"
        self._patch = pytest.MonkeyPatch()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> S3Server:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._patch.undo()
        self._forget()

    def start(self) -> None:
        """Start it, at the place where it was; it has forgotten everything."""
        import boto3

        with self._log.open("ab") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, self._port],
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
            )
        assert self._process.stdout is not None
        self._port = self._process.stdout.readline().strip()
        assert self._port, self._log.read_text()
        self._patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{self._port}")
        self._patch.setenv("AWS_ACCESS_KEY_ID", "key")
        self._patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        self._patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        self._forget()
        boto3.client("s3").create_bucket(Bucket=BUCKET)

    def kill(self) -> None:
        """End it at once."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdout is not None
            process.kill()
            process.wait()
            process.stdout.close()

    def _forget(self) -> None:
        """Let nobody use a connection that was made with another environment."""
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
