"""Keeps the bytes of production's versions, and uses them as a consumer would."""
