"""The embedded Postgres: one server in `TRUNKLINE_HOME`, a child of the process that owns the home.

    home/lock                 held by the owner
    home/postgres/            the server's own folder, 0700 (for root often a link, see `_choose_folder`)
        data/                 the cluster
        run/                  its Unix socket; who may enter this folder may log in
        postgres.log

`postgres` is started and signalled directly: `pg_ctl` would put a shell and a 0.1 s poll in between, and leave the
server without a parent that notices and collects it when it dies. `EmbeddedPostgres` says what starts cost.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from secrets import token_urlsafe
from urllib.parse import quote

from trunkline.errors import SetupError
from trunkline.store.binaries import Account, find_programs, server_account
from trunkline.store.cluster import ADMIN, check_major, configure, last_words, make_cluster, make_folder, write_file
from trunkline.store.home_lock import HomeLock
from trunkline.store.postmaster import Postmaster, end, end_orphans, read_postmaster, wait_until

log = logging.getLogger(__name__)

DATABASE = "trunkline"

_SHARED = Path("/var/lib/trunkline")
_SOCKET_PATH_BYTES = 107
_LOG_BYTES = 1024 * 1024
_START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class ConnectionInfo:
    """Where a running server is reached, and whether it was running before."""

    socket_dir: Path
    port: int
    pid: int
    adopted: bool
    """Left behind by an owner that was killed, found healthy, and taken over."""

    def url(self, user: str = ADMIN, database: str = DATABASE) -> str:
        """Return a URL over the Unix socket that libpq and tokio-postgres both read."""
        return f"postgresql://{quote(user, safe='')}@{quote(str(self.socket_dir), safe='')}:{self.port}/{database}"


class EmbeddedPostgres:
    """The Postgres server of one home.

    `start` makes the cluster if there is none, takes over a healthy server whose owner was killed, clears what a
    SIGKILL left behind, and returns once connections are taken. As a context manager it starts and stops. An owner that
    may get SIGTERM must turn it into an exception, or the server outlives it until the next `start` takes it over.

    With `tcp_port` it also listens on 127.0.0.1, for the superuser alone; the password is in `home/postgres.password`.

    Measured (two busy cores, ext4): first start 0.76 s (initdb 0.6 s; with its files synced before
    the server starts, not beside it, 0.3 s more), later ones 0.03 to 0.09 s, stop 0.02 s.
    """

    def __init__(
        self, home: Path, *, tcp_port: int | None = None, shared: Path = _SHARED, lock: HomeLock | None = None
    ) -> None:
        """Take the home; for root, the folder in which another user's files may lie (`shared`).

        `lock` is the home's, if the caller holds it already; it is then the caller's to release.
        """
        self.home = home.expanduser().absolute()
        self._tcp_port = tcp_port
        self._shared = shared
        self._own_lock = HomeLock(self.home) if lock is None else None
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ConnectionInfo:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def folder(self) -> Path:
        """The server's own folder, links followed."""
        return (self.home / "postgres").resolve()

    @property
    def data(self) -> Path:
        """The cluster's data folder."""
        return self.folder / "data"

    @property
    def log_file(self) -> Path:
        """The server's log; cut at each start once it is over 1 MiB, with one predecessor kept."""
        return self.folder / "postgres.log"

    def running(self) -> ConnectionInfo | None:
        """Return where the server is reached if it runs and takes connections, whoever started it."""
        postmaster = read_postmaster(self.data)
        if postmaster is None or postmaster.socket_dir is None or not postmaster.answers():
            return None
        adopted = self._child is None or self._child.pid != postmaster.pid
        return ConnectionInfo(postmaster.socket_dir, postmaster.port, postmaster.pid, adopted)

    def start(self) -> ConnectionInfo:
        """Return a running server, owned by this process until `stop`.

        Raises SetupError if another process owns the home, or the server does not come up; the message has the reason.
        """
        if self._child is not None and self._child.poll() is not None:
            self._child = None  # it died; poll has collected it
        account = server_account()
        make_folder(self.home, mode=0o700 if account.is_us else 0o711)
        if self._own_lock is not None:
            self._own_lock.acquire()
        try:
            return self._start(account)
        except BaseException:
            self._release()
            raise

    def stop(self) -> None:
        """Stop the server, waiting for its last transactions to be rolled back and its files to be complete."""
        postmaster = read_postmaster(self.data)
        if postmaster is not None:
            end(postmaster.pid)
        if self._child is not None:
            self._child.wait()
            self._child = None
        self._release()

    def destroy(self) -> None:
        """Stop the server and erase its data."""
        self.stop()
        for folder in (self.folder, *self._short_folders()):
            shutil.rmtree(folder, ignore_errors=True)
        link = self.home / "postgres"
        if link.is_symlink():
            link.unlink()
        (self.home / "postgres.password").unlink(missing_ok=True)

    def _release(self) -> None:
        if self._own_lock is not None:
            self._own_lock.release()

    def _start(self, account: Account) -> ConnectionInfo:
        programs = find_programs(account, self._shared)
        self._choose_folder(account)
        sync: subprocess.Popen[bytes] | None = None
        if not self.data.exists():
            password = token_urlsafe(24)
            write_file(self.home / "postgres.password", password + "\n", None)
            sync = make_cluster(self.data, programs, account, password)
        check_major(self.data)
        found = self._settle()
        if found is not None:
            log.warning("took over the Postgres server that an earlier owner left running: pid %d", found.pid)
            return found
        socket_dir = self._socket_dir(account)
        # No server runs on this data, and only it uses this folder: a lock that lies there is stale, like its pid file.
        (socket_dir / f".s.PGSQL.{self._port}.lock").unlink(missing_ok=True)
        configure(self.data, socket_dir, self._port, account, tcp=self._tcp_port is not None)
        self._rotate_log()
        info = self._spawn(programs, account, socket_dir)
        if sync is not None and sync.wait() != 0:
            raise SetupError(
                f"The new Postgres data in {self.data} could not be written to disk; is it full or failing?"
            )
        return info

    def _choose_folder(self, account: Account) -> None:
        """Make `home/postgres` if there is none.

        For root, where the server's user cannot enter the home, it is a link to a folder of that user
        in `shared`; later starts go by that link.
        """
        folder = self.home / "postgres"
        if not folder.is_symlink() and not folder.exists() and not account.can_enter(self.home):
            name = re.sub(r"[^A-Za-z0-9]+", "-", str(self.home)).strip("-")[-40:]
            digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:8]
            make_folder(self._shared, mode=0o755)
            folder.symlink_to(self._shared / f"{name}-{digest}")
        target = folder.resolve()
        make_folder(target, mode=0o700, owner=account)
        if not account.is_us and not account.can_enter(target):
            raise SetupError(
                f"User {account.name!r}, whom Postgres runs as, cannot enter {target}; allow it (chmod o+x)."
            )

    def _settle(self) -> ConnectionInfo | None:
        """Return the healthy server that already runs as asked, or make sure that nothing of an old one is left."""
        deadline_s = _START_TIMEOUT_S
        wait_until(lambda: self.running() is not None or not self._in_transition(), deadline_s)
        found = self.running()
        postmaster = read_postmaster(self.data)
        if found is not None and postmaster is not None and self._as_asked(postmaster):
            return found
        if postmaster is not None:
            end(postmaster.pid)
        pid_file = self.data / "postmaster.pid"
        if pid_file.exists():
            # Stale. Its pid may be another program's, or a zombie's: Postgres would take either for a live server.
            end_orphans(self.data)
            pid_file.unlink(missing_ok=True)
        return None

    def _in_transition(self) -> bool:
        postmaster = read_postmaster(self.data)
        return postmaster is not None and postmaster.state != "ready"

    def _as_asked(self, postmaster: Postmaster) -> bool:
        if self._tcp_port is None:
            return not postmaster.tcp_host
        return bool(postmaster.tcp_host) and postmaster.port == self._tcp_port

    def _socket_dir(self, account: Account) -> Path:
        """Return a folder that the server's user alone may enter, its path short enough for a socket."""
        name = f".s.PGSQL.{self._port}"
        for choice in (self.folder / "run", *self._short_folders()):
            if len(os.fsencode(choice / name)) <= _SOCKET_PATH_BYTES and account.can_enter(choice.parent):
                make_folder(choice, mode=0o700, owner=account)
                return choice
        raise SetupError("No folder has a path short enough for a socket; set TRUNKLINE_HOME to a shorter one.")

    def _short_folders(self) -> list[Path]:
        digest = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:12]
        temporary = (tempfile.gettempdir(), "/tmp")  # noqa: S108 - the folder in it is checked
        return [Path(folder) / f"trunkline-{digest}" for folder in temporary]

    @property
    def _port(self) -> int:
        return 5432 if self._tcp_port is None else self._tcp_port

    def _rotate_log(self) -> None:
        if self.log_file.exists() and self.log_file.stat().st_size > _LOG_BYTES:
            self.log_file.rename(self.log_file.with_suffix(".log.1"))

    def _spawn(self, programs: Path, account: Account, socket_dir: Path) -> ConnectionInfo:
        """Run `postgres` until it is ready; once more if a dead server's processes still held its memory."""
        output = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            if not account.is_us:
                os.fchown(output, account.uid, account.gid)
            for _ in range(2):
                begin = os.fstat(output).st_size
                child = self._child = subprocess.Popen(  # noqa: S603
                    [str(programs / "postgres"), "-D", str(self.data)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # a Ctrl-C in the terminal is for the owner, who stops things in order
                    **account.process_options(self.folder),
                )
                if self._wait_ready(child):
                    return ConnectionInfo(socket_dir, self._port, child.pid, adopted=False)
                self._child = None
                said = self.log_file.read_bytes()[begin:].decode(errors="replace")
                if "pre-existing shared memory" not in said:
                    break
                end_orphans(self.data)
        finally:
            os.close(output)
        raise SetupError(f"Postgres did not start: {last_words(said)} (the log is {self.log_file})")

    def _wait_ready(self, child: subprocess.Popen[bytes]) -> bool:
        """Wait until the server is ready, recovery included; False if it ended, or was ended for slowness."""

        def is_ready() -> bool:
            postmaster = read_postmaster(self.data)
            return postmaster is not None and postmaster.pid == child.pid and postmaster.state == "ready"

        wait_until(lambda: child.poll() is not None or is_ready(), _START_TIMEOUT_S)
        if is_ready():
            return True
        if child.poll() is None:
            end(child.pid)
        child.wait()
        return False
