"""What most tests of production begin with."""

from pikavae import operations


def promote(model, config, reason="because"):
    """Ask for a promotion and approve it, whatever the gates leave open."""
    asked = operations.promote(model, config, reason=reason)
    return operations.approve(asked.version, config, reason=reason)
