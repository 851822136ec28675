"""Private and patched names of other packages, one file for each package: what, since when, and what without it."""
