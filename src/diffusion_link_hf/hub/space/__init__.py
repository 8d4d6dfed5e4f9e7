"""The Space that is pushed beside a model: app.py of this folder, its card and its requirements."""

from importlib import resources

import yaml

from ... import __version__

# The line of app.py that says which pipeline it loads.
_MODEL_LINE = 'MODEL = "tiny"'


def space_files(repo_id: str) -> dict[str, str]:
    """Path in the Space → content, for the pipeline of ``repo_id``."""
    app = resources.files(__name__).joinpath("app.py").read_text(encoding="utf-8")
    if app.count(_MODEL_LINE) != 1:
        raise RuntimeError(f"app.py has to hold the line {_MODEL_LINE} once")
    front_matter = {
        "title": f"Captions by {repo_id.split('/')[-1]}",
        "emoji": "🔊",
        "colorFrom": "blue",
        "colorTo": "green",
        "sdk": "gradio",
        "app_file": "app.py",
        "models": [repo_id],
        "license": "apache-2.0",
    }
    card = f"""---
{yaml.safe_dump(front_matter, allow_unicode=True, sort_keys=False)}---

Upload or record a sound; [{repo_id}](https://huggingface.co/{repo_id}) captions every ten seconds of it. A private
model needs the secret `HF_TOKEN` in the settings of this Space.
"""
    return {
        "app.py": app.replace(_MODEL_LINE, f'MODEL = "{repo_id}"'),
        "README.md": card,
        "requirements.txt": f"diffusion-link-hf>={__version__}\n",
    }
