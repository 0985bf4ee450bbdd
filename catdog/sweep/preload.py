"""Import the modules that the environment names (`PRELOADED`) in Ray's workers, before they have any work.

Garbage collection costs a quarter of the import time, so it is off meanwhile, and later collections skip what was
imported.
"""

import gc
import importlib
import os

from catdog.sweep import PRELOADED

gc.disable()
try:
    for _name in filter(None, os.environ.get(PRELOADED, "").split(",")):
        importlib.import_module(_name)
finally:
    gc.freeze()
    gc.enable()
