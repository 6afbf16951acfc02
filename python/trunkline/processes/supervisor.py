"""`trunkline up`: one process that starts all the others, starts again what ends, and stops them in order."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from secrets import token_urlsafe
from typing import Any

from trunkline._core import known_providers
from trunkline.errors import SetupError
from trunkline.processes.child import Child, describe
from trunkline.processes.home import Home, Run
from trunkline.processes.identity import stop_all
from trunkline.processes.logs import Tail, rotate
from trunkline.processes.ports import base_url, claim, listener, status_of
from trunkline.processes.postgres import Postgres
from trunkline.processes.reload import Reload
from trunkline.processes.signals import Signals
from trunkline.provider_settings import KnownProvider
from trunkline.settings import Settings
from trunkline.store.home_lock import HomeLock

_POLL_S = 0.01
_CHECK_S = 1.0
_TAIL_S = 0.1
_READY_S = 60.0
_PREVIOUS_GRACE_S = 2.0
_DRAIN_S = (("gateway", 60.0), ("worker", 20.0), ("control", 15.0))
"""Who is asked to stop, in this order, and how long it may take before it is killed."""


@dataclass(frozen=True)
class Started:
    """What there is to tell when everything answers."""

    run: Run
    home: Home
    new_key: bool
    """This start made the key in `home.key_file`."""
    providers: tuple[str, ...]
    """The model providers that calls can go to."""
    seconds: Mapping[str, float]
    """From the beginning of the start until `postgres`, `migrations`, `gateway` and `control` were ready."""


class Supervisor:
    """Runs one Trunkline in the foreground.

    `read` reads the settings anew; `notify` is given a line for a person when something unexpected happens; `tell_log`,
    if given, the name of a process and a line that it logged.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        read: Callable[[], Settings],
        notify: Callable[[str], None],
        tell_log: Callable[[str, str], None] | None = None,
    ) -> None:
        self._settings = settings
        self._read = read
        self._reload: Reload | None = None
        self._home = Home(settings.home)
        self._notify = notify
        self._tell_log = tell_log
        self._signals = Signals()
        self._postgres = Postgres(settings)
        self._children: list[Child] = []
        self._tail: Tail | None = None
        self._run: Run | None = None

    def run(self, ready: Callable[[Started], None]) -> None:
        """Start everything, call `ready`, and return once all is stopped again after SIGINT or SIGTERM.

        Raises SetupError if it cannot start; nothing that it started is left running then.
        """
        began = time.monotonic()
        self._home.make()
        lock = HomeLock(self._settings.home)
        with self._signals, ExitStack() as held:
            lock.acquire()
            held.callback(lock.release)
            try:
                ready(self._start(began, lock, held))
                self._watch()
            except _Stopped:
                pass
            finally:
                self._stop()

    def _start(self, began: float, lock: HomeLock, held: ExitStack) -> Started:
        """Start the children before Postgres: they import what they need meanwhile, and wait to be configured."""
        self._stop_previous()
        listen = claim(self._settings.listen)
        url = base_url(listen)
        control_socket = held.enter_context(listener("127.0.0.1:0"))  # its callers wait while it restarts
        control_url = f"http://127.0.0.1:{control_socket.getsockname()[1]}"
        known = [KnownProvider.model_validate(provider) for provider in json.loads(known_providers())]

        made_key = token_urlsafe(32)

        def gateway_config(settings: Settings) -> dict[str, Any]:
            return settings.gateway_config("", control_url, known, embedder_key=made_key)

        config = gateway_config(self._settings) | {"listen": listen}

        gateway = self._child("gateway")
        control = self._child("control", descriptor=control_socket.fileno())
        worker = self._child("worker")
        self._tail = Tail([child.log for child in self._children]) if self._tell_log is not None else None
        gateway.start()
        control.start()

        seconds = {}
        if self._settings.database_url is None:
            lock.release()  # from here on the embedded Postgres holds it
        imported = threading.Thread(target=import_module, args=["trunkline.processes.prepare"])
        imported.start()  # psycopg takes as long as Postgres does
        addresses = self._postgres.start()
        imported.join()
        from trunkline.processes.prepare import prepare  # noqa: PLC0415
        from trunkline.processes.vault_key import vault_keys  # noqa: PLC0415

        keys = vault_keys(self._settings)

        seconds["postgres"] = time.monotonic() - began
        new_key = prepare(addresses, self._home)
        seconds["migrations"] = time.monotonic() - began

        config |= {"database": addresses.gateway}
        memory = self._settings.memory.model_dump(
            mode="json", exclude={"embedder": {"api_key"}, "reranker": {"api_key"}}
        )
        tools = self._settings.tools.model_dump(mode="json")
        gateway.configure(config)
        control.configure(
            {
                "database": addresses.control,
                "descriptor": control_socket.fileno(),
                "max_body_bytes": self._settings.limits.max_body_bytes,
                "base_url": url,
                "memory": memory,
                "embedder_key": self._settings.embedder_key(made_key),
                "tools": tools,
                "reranker_key": self._settings.reranker_key,
                "ca_file": config["ca_file"],
                "vault_keys": [key.hex() for key in keys],
            }
        )
        self._await(gateway, url, "/readyz")
        seconds["gateway"] = time.monotonic() - began
        self._await(control, control_url, "/internal/healthz")
        seconds["control"] = time.monotonic() - began
        worker.start()
        worker.configure(
            {
                "database": addresses.control,
                "base_url": url,
                "memory": memory,
                "tools": tools,
                "webhooks": self._settings.webhooks.model_dump(mode="json"),
                "vault_keys": [key.hex() for key in keys],
                "audit_days": self._settings.audit.keep_days,
                "home": str(self._settings.home),
            }
        )
        run = self._write_run(url, control_url)
        providers = tuple(str(provider["name"]) for provider in config["providers"])
        self._reload = Reload(
            self._settings,
            config,
            read=self._read,
            make=lambda settings: gateway_config(settings) | {"listen": self._listen(settings, listen)},
            apply=gateway.configure,
            tell=self._notify,
        )
        return Started(run, self._home, new_key, providers, seconds)

    def _stop_previous(self) -> None:
        """Stop what a killed supervisor left behind; its Postgres is taken over, not stopped."""
        previous = self._home.read_run()
        if previous is not None:
            left = [process for name, process in previous.processes.items() if name != "postgres"]
            stop_all(left, grace_s=_PREVIOUS_GRACE_S)
            self._home.remove_run()

    def _child(self, name: str, *, descriptor: int | None = None) -> Child:
        log = self._home.logs / f"{name}.log"
        rotate(log)
        child = Child(name, log, descriptors=() if descriptor is None else (descriptor,))
        self._children.append(child)
        return child

    def _await(self, child: Child, url: str, path: str) -> None:
        """Return when the child answers 200. Raises SetupError, with its last words, if it ends or takes too long."""
        give_up = time.monotonic() + _READY_S
        while (status := status_of(url, path, timeout_s=1.0)) != 200:
            if self._signals.stops:
                raise _Stopped
            ended = child.exit_status()
            if ended is not None:
                raise SetupError(f"{child.name} {describe(ended)}: {child.last_words()} (log: {child.log})")
            if time.monotonic() > give_up:
                answer = "does not answer" if status is None else f"answers {status}"
                raise SetupError(f"{child.name} {answer} at {url}{path} after {_READY_S:.0f} s (log: {child.log})")
            self._show_logs()
            self._signals.wait(_POLL_S)

    def _write_run(self, url: str, control_url: str) -> Run:
        processes = {child.name: child.process for child in self._children if child.process is not None}
        postgres = self._postgres.process()
        if postgres is not None:
            processes["postgres"] = postgres
        self._run = Run(os.getpid(), url, control_url, processes)
        self._home.write_run(self._run)
        return self._run

    def _watch(self) -> None:
        """Keep everything running until somebody asks to stop."""
        checked = time.monotonic()
        reloads = 0
        while not self._signals.stops:
            now = time.monotonic()
            if self._reload is not None and self._signals.reloads > reloads:
                reloads = self._signals.reloads
                self._reload.ask()
                self._reload.look()
            started_again = [child for child in self._children if self._tend(child, now)]
            postgres_again = False
            if now - checked >= _CHECK_S:
                checked = now
                if self._reload is not None:
                    self._reload.look()
                postgres_again = self._postgres.restart_if_ended(self._notify)
                for child in self._children:
                    rotate(child.log)
            if (started_again or postgres_again) and self._run is not None:
                self._write_run(self._run.base_url, self._run.control_url)
            self._show_logs()
            due = [child.restart_at - now for child in self._children if child.restart_at is not None]
            self._signals.wait(min([*due, _TAIL_S if self._tail else _CHECK_S]))

    def _listen(self, settings: Settings, claimed: str) -> str:
        """Return where new settings listen: port 0 is the one that was taken for it."""
        return claimed if settings.listen == self._settings.listen else settings.listen

    def _tend(self, child: Child, now: float) -> bool:
        """Start the child again if it is due; tell whether it was."""
        change = child.tend(now)
        if change == "ended":
            ended = describe(child.exit_status())
            self._notify(f"{child.name} {ended}, starting it again: {child.last_words()} (log: {child.log})")
        return change == "started"

    def _stop(self) -> None:
        """Drain the gateway first, since its calls need the others to finish; Postgres goes last.

        A signal that comes during this kills what still runs.
        """
        asked_before = self._signals.stops
        children = {child.name: child for child in self._children}
        for name, drain_s in _DRAIN_S:
            if name not in children:
                continue
            children[name].signal(signal.SIGTERM)
            give_up = time.monotonic() + drain_s
            while not children[name].has_ended():
                if self._signals.stops > asked_before or time.monotonic() > give_up:
                    children[name].signal(signal.SIGKILL)
                self._show_logs()
                self._signals.wait(0.05)
        self._postgres.stop()
        self._show_logs()
        if self._run is not None:
            self._home.remove_run()

    def _show_logs(self) -> None:
        if self._tail is not None and self._tell_log is not None:
            for name, line in self._tail.lines():
                self._tell_log(name, line)


class _Stopped(Exception):
    """Somebody asked to stop before everything was up."""
