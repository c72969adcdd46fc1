"""HTML that no content can break out of: markup, charts, the frame of a page."""
