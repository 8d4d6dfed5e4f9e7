"""Trains the link from the cache by link.yaml and prints how near it comes, beside the embeddings as they are and ridge."""

import argparse
import json
from pathlib import Path

import torch
from diffusion_link_hf.data.embedding_cache import EmbeddingCache
from diffusion_link_hf.training.link_trainer import train_link
from torch.nn import functional as F
from train_pen import bridged, load_link

from diffusion_link_hf.training.arguments import load_recipe


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("link.yaml"))
    parser.add_argument("overrides", nargs="*", help="key=value of the recipe")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    recipe = load_recipe(args.recipe, args.overrides)
    if not (Path(recipe.output) / "metrics.json").is_file():
        train_link(recipe)
    cache = EmbeddingCache.load(recipe.cache)
    train, val = cache.split(recipe.validation_fraction, recipe.seed)
    link, scheduler = load_link(Path(recipe.output) / "link")
    centre = lambda rows, of: F.normalize(rows - of.mean(0), dim=-1)
    audio, text = val.audio[val.caption_audio], val.text
    wanted = centre(text, train.text)
    x, y = centre(train.audio[train.caption_audio], train.audio), centre(train.text, train.text)
    ridge = torch.linalg.solve(x.T @ x + 1e-3 * len(x) * torch.eye(x.shape[1]), x.T @ y)
    rows = {
        "centred": centre(audio, train.audio),
        "ridge": F.normalize(centre(audio, train.audio) @ ridge, dim=-1),
        "link": bridged(link, scheduler, audio, "audio"),
    }
    result = {"raw": F.cosine_similarity(audio, text).mean().item()}
    result |= {name: F.cosine_similarity(row, wanted).mean().item() for name, row in rows.items()}
    print("matched cosine on held-out scenes:", json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
