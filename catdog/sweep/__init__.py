"""The grid on Ray Tune: one grid axis of trials, seed by seed, on a local Ray or an existing cluster (RAY_ADDRESS).

Tune places trials, reuses worker processes and retries after faults of the infrastructure. It keeps no state that
matters: the store is the only truth, so nothing is restored, and starting the same sweep again does what is left.
This is the only package that imports Ray: `run` is the driver's side, `trainable` what runs on workers, `cluster` the
Ray that both run on. A worker imports its own side only.
"""

import os

PRELOADED = "CATDOG_PRELOADED"
"""The variable that names what workers import at once (`preload`), with commas between the names."""

# Read by Ray when it is imported: token authentication stays on, nothing is sent home, and Tune says nothing of its
# own.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("TUNE_WARN_THRESHOLD_S", "10")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
