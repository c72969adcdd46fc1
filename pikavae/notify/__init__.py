"""Tell people what happened: events are taken from the record, kept in an outbox, and sent until each has arrived."""
