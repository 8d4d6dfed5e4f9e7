"""The sub-commands of ``diffusion-link``, one file each: ``add_parser(commands)`` and ``run(args)``."""
