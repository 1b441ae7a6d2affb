"""Meta-trained rules: the file format they are shipped in, and those that come with the package."""
