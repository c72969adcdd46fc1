"""From a source of captioned pictures to a prepared, immutable data set."""
