"""Judge, promote, and watch the champion."""
