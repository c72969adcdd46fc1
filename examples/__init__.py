"""Programs that use what pikavae makes, to read and to change."""
