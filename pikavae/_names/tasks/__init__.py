"""Lead to `tasks` beside pikavae."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[3] / "tasks")]
