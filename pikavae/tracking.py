"""Runs in MLflow: the only module that writes them.

Every call names its client and its run: MLflow's own "active run" is kept per thread and opens stray runs in tasks that
run in other threads. A run can be continued after a crash; what it already holds is not written twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import batched if False else islice
