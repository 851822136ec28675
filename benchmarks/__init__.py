"""Benchmarks: what LayerAct costs beside ReLU, LayerNorm and BatchNorm. See README.md; run with `make benchmark`."""
