"""The papers' analyses, each a function that writes a JSON file and a PNG beside it: `layeract analyze`.

`digits` has the small networks that the papers train on MNIST, `sites` the hooks into any network.
"""
