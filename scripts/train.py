"""Launch target for many processes: `accelerate launch scripts/train.py OPTIONS`, options as of `layeract train`."""

import sys

from timm_layeract.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    main()
