"""OAuth access tokens of vaults: renewed once among all workers (`renewals.py`), and tried out (`validation.py`)."""
