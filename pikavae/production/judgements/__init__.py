"""Judges candidates, and keeps what retrainings and watches found."""
