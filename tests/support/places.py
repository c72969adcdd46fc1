"""Where things are that tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
SHARED = ROOT.parent / "shared"
"""Real pictures beside the checkout, where there are any; tests that use them say what they do without."""
EMOJI = SHARED / "data" / "emoji"
