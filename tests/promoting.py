"""What most tests of production begin with."""

from pikavae import operations


def promote(model, config, reason="because"):
    """Ask for a promotion and approve it, whatever the gates say of a model that hardly learned."""
    asked = operations.promote(model, config, reason=reason, force=True)
    return operations.approve(asked.version, config, reason=reason)
