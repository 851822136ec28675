"""Data: where samples come from (`sources`, `masks`, `texts`), and what happens to images of a batch (`augment`)."""
