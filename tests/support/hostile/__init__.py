"""Pictures as they come: every mode, depth, profile, rotation, container and damage, and what must come out.

A case expects exact pixels or an exact reason; a reason that ends in "..." goes on in Pillow's own words.
"""
