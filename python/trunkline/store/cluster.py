"""The files of an embedded cluster: made, checked and configured while no server runs on them."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from trunkline.errors import SetupError
from trunkline.store.binaries import MAJOR, Account

ADMIN = "trunkline"
"""The cluster's superuser, who migrates."""

SETTINGS: Mapping[str, str] = {
    # A gateway has 4 a serving thread and 4 more, a control plane up to 11, a worker up to 14: several of each fit.
    "max_connections": "200",
    "client_connection_check_interval": "10s",  # what a killed client had asked for ends, and with it its connection
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    # One call instead of an fsync for each of 1,300 files before recovery: 0.3 s instead of 2.5 s after a SIGKILL.
    "recovery_init_sync_method": "syncfs" if sys.platform == "linux" else "fsync",
    "autovacuum_naptime": "10s",  # a new database grows fast, and its plans are as good as its statistics
    "max_wal_size": "256MB",  # bounds the work of recovery after a SIGKILL
    "jit": "off",  # compiling costs more than these short statements
    "io_method": "sync",  # spares three I/O processes
    "max_logical_replication_workers": "0",  # spares the launcher process
    "huge_pages": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "log_checkpoints": "off",
    "log_min_error_statement": "panic",  # statements carry what users said
    "unix_socket_permissions": "0700",
}


def make_cluster(data: Path, programs: Path, account: Account, password: str) -> subprocess.Popen[bytes]:
    """Run initdb and return the running process that brings its files to disk.

    The cluster is made aside and renamed, so that a kill in the middle leaves nothing that looks like a cluster.
    """
    folder = data.parent
    partial = folder / "data.partial"
    shutil.rmtree(partial, ignore_errors=True)
    password_file = folder / "initdb.password"
    write_file(password_file, password + "\n", account)
    command = [
        str(programs / "initdb"),
        f"--pgdata={partial}",
        f"--username={ADMIN}",
        f"--pwfile={password_file}",
        "--auth-local=trust",
        "--auth-host=scram-sha-256",
        "--encoding=UTF8",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--locale=C.UTF-8",
        "--no-instructions",
        "--no-sync",
    ]
    made = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, **account.process_options(folder)
    )
    password_file.unlink()
    if made.returncode != 0:
        raise SetupError(f"initdb failed: {last_words(made.stderr)}")
    partial.rename(data)
    command = [str(programs / "initdb"), "--sync-only", f"--pgdata={data}"]
    return subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **account.process_options(folder)
    )


def check_major(data: Path) -> None:
    """Raise SetupError unless `data` is a cluster of the Postgres that the package carries."""
    try:
        major = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    except OSError as error:
        raise SetupError(f"{data} holds no Postgres cluster; restore it, or move the folder away.") from error
    if major != str(MAJOR):
        raise SetupError(
            f"{data} was made by Postgres {major}, and this Trunkline carries {MAJOR}; start the "
            "Trunkline that made it, dump it with pg_dump, and restore the dump into a new home."
        )


def configure(data: Path, socket_dir: Path, port: int, account: Account, *, tcp: bool) -> None:
    """Write the server's settings and who may log in: everyone on the socket, the superuser by password over TCP."""
    settings = dict(SETTINGS)
    settings["port"] = str(port)
    settings["listen_addresses"] = "127.0.0.1" if tcp else ""
    settings["unix_socket_directories"] = f'"{socket_dir}"'
    lines = ["# Written at each start. To change a setting, use ALTER SYSTEM: postgresql.auto.conf goes before this."]
    lines += [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in settings.items()]
    write_file(data / "postgresql.conf", "\n".join(lines) + "\n", account)
    access = ["# Written at each start. The socket's folder is what guards it.", "local all all trust"]
    if tcp:
        access.append(f"host all {ADMIN} 127.0.0.1/32 scram-sha-256")
    write_file(data / "pg_hba.conf", "\n".join(access) + "\n", account)


def make_folder(folder: Path, *, mode: int, owner: Account | None = None) -> None:
    """Make `folder` if there is none. One that is there must be a folder of `owner` alone; it is never changed."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=mode)
    except FileExistsError:
        status = folder.lstat()
        if owner is not None and (
            not stat.S_ISDIR(status.st_mode) or status.st_uid != owner.uid or status.st_mode & 0o077
        ):
            raise SetupError(
                f"{folder} must be a folder of user {owner.name!r} with mode 0700; move it away."
            ) from None
    except OSError as error:
        raise SetupError(f"{folder} cannot be made: {error.strerror}; set TRUNKLINE_HOME to another folder.") from error
    else:
        folder.chmod(mode)  # whatever the umask was
        if owner is not None and not owner.is_us:
            os.chown(folder, owner.uid, owner.gid)


def write_file(path: Path, text: str, owner: Account | None) -> None:
    """Write a file with mode 0600, whole or not at all, over no link that someone may have put there."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        if owner is not None and not owner.is_us:
            os.fchown(file.fileno(), owner.uid, owner.gid)
        file.write(text)
    partial.rename(path)


def last_words(output: str) -> str:
    """Return the last two messages of a program in one line, without their times and pids."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    messages = [re.sub(r"^.*?\b(LOG|FATAL|ERROR|error):\s*", "", line) for line in lines if "DETAIL" not in line]
    return "; ".join(messages[-2:]) or "it said nothing"
