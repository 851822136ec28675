"""Networks by name: timm's, the Hub's, those of segmentation_models_pytorch, folders, runs, files and functions.

`source` has the one grammar of names, which every command and function takes; `measured` makes networks alike that are
to be compared.
"""

from .measured import Network, UnitInput, load_networks
from .source import Source, load_network, parse_source

__all__ = ["Network", "Source", "UnitInput", "load_network", "load_networks", "parse_source"]
