"""`python -m timm_layeract.cli`: the command without the script that pip installs."""

from . import main

main()
