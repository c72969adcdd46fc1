"""Keeps what happened to production: the ledger, its rules, verdicts and statuses."""
