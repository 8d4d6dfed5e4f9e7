"""``python -m diffusion_link_hf``: the command line, also for ``accelerate launch -m diffusion_link_hf``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
