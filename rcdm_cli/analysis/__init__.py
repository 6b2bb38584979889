"""Questions asked of a representation, one file each; each returns plain results."""
