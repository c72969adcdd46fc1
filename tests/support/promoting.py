"""What most tests of production begin with."""

from tests.support import commands


def promote(model, config, reason="because"):
    """Ask for a promotion and approve it, whatever the gates say of a model that hardly learned."""
    asked = commands.promote(model, config, reason=reason, force=True)
    return commands.approve(asked.version, config, reason=reason)
