"""The key that secrets in vaults are sealed with: `TRUNKLINE_VAULT_KEY`, or a file in the home."""

from __future__ import annotations

import os

from trunkline.errors import SetupError
from trunkline.settings import Settings
from trunkline.store.sealing import new_key, read_keys

FILE = "vault.key"


def vault_keys(settings: Settings) -> tuple[bytes, ...]:
    """Return the keys, the one to seal with first; the file is made where there is neither. Raises SetupError."""
    if settings.vault_key is not None:
        return read_keys(settings.vault_key.get_secret_value())
    path = settings.home / FILE
    try:
        path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return read_keys(path.read_text(encoding="ascii").strip())
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(new_key() + "\n")
            file.flush()
            os.fsync(file.fileno())
        return read_keys(path.read_text(encoding="ascii").strip())
    except (OSError, UnicodeError) as error:
        raise SetupError(f"{path} cannot be read or made: {error}; set TRUNKLINE_VAULT_KEY instead.") from error
