"""Lists, links, unpacks, hashes and leaves out the files of a source."""
