"""Scripts for `evaluate.load`, one per metric; `diffusion_link_hf.metrics.evaluate_base.module_path` finds them."""
