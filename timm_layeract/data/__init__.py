"""Data: where images come from (`sources`) and what happens to a batch of them before the network (`augment`)."""
