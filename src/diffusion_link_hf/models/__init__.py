"""The captioner's own models: CLAP and its front end, the prefix projector, and the caption decoder."""
