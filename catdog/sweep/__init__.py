"""The sweep on Ray Tune: a list of trials, seed by seed, on a local Ray or a cluster (RAY_ADDRESS).

Tune places trials, reuses worker processes and retries after infrastructure faults. It keeps no state that matters:
the store is the single source of truth, so nothing is restored, and the same command runs the pending trials.
This is the only package that imports Ray: `run` is the driver's side, `trainable` the workers', `cluster` the Ray that
both run on. A worker imports only its own side.
"""

import getpass
import os

PRELOADED = "CATDOG_PRELOADED"
"""The environment variable that lists the modules workers import at startup (`preload`), separated by commas."""

try:
    getpass.getuser()
except (KeyError, OSError):  # a number without a name, as in many containers; Ray and torch ask for name and home
    os.environ |= {"LOGNAME": str(os.getuid()), "HOME": os.environ.get("HOME", "/nonexistent")}

# Ray reads these at import: token authentication on, no usage reports, no output from Tune itself. Under `uv run`, Ray
# would send the working directory to every worker and start it by uv; here workers have their packages already.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("TUNE_WARN_THRESHOLD_S", "10")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
