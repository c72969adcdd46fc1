"""Promotes versions, and keeps the ledger and the production store."""
