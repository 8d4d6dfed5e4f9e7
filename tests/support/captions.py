"""Short sounds, and Parquet files in the layouts that captioned data sets have on the Hub."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

RATE = 16_000
SAMPLES = 1_600  # a tenth of a second, 4,800 samples at 48 kHz

# As in the README of jp1924/AudioCaps and other copies: a row for every caption, with the clip's audio again.
AUDIOCAPS_SCHEMA = {
    "audiocap_id": pa.int32(),
    "youtube_id": pa.string(),
    "start_time": pa.int32(),
    "audio": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "caption": pa.string(),
}
README = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
dataset_info:
  features:
  - name: audiocap_id
    dtype: int32
  - name: youtube_id
    dtype: string
  - name: start_time
    dtype: int32
  - name: audio
    dtype:
      audio:
        sampling_rate: 16000
  - name: caption
    dtype: string
---
"""


def sound(seed: int, format: str = "FLAC") -> bytes:
    """An encoded tenth of a second of noise."""
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(seed).uniform(-0.3, 0.3, SAMPLES), RATE, format=format)
    return file.getvalue()


def write_sound(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sound(seed, path.suffix[1:].upper()))
    return path


def write_parquet(path: Path, rows: list[dict], schema: dict = AUDIOCAPS_SCHEMA, row_group_size: int = 4) -> Path:
    """Rows with the features noted as `datasets` does, audio as `datasets.Audio`."""
    features = {name: {"_type": "Audio"} for name in schema if name == "audio"}
    features |= {
        name: {"dtype": str(kind), "_type": "Value"}
        for name, kind in schema.items()
        if name != "audio" and not pa.types.is_list(kind)
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(schema.items()), metadata=metadata))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def make_audiocaps_repository(folder: Path, readme: bool = True) -> Path:
    """Train of 5 clips; test of 4 clips with 3 captions each, scattered over two files: clip 1 gone, clip 2 corrupt."""
    train = [
        {
            "audiocap_id": k,
            "youtube_id": f"train{k:06d}",
            "start_time": 30 * k,
            "audio": {"bytes": sound(k), "path": f"{k}.flac"},
            "caption": f" Train {k} ",
        }
        for k in range(5)
    ]
    recordings = [sound(0), None, sound(2)[:50], sound(3)]
    test = [
        {
            "audiocap_id": 100 + k,
            "youtube_id": f"test{k % 4:07d}",
            "start_time": 10 * (k % 4),
            "audio": None if k % 4 == 1 else {"bytes": recordings[k % 4], "path": f"{k % 4}.flac"},
            "caption": f"Caption {k}",
        }
        for k in range(12)
    ]
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", train, row_group_size=2)
    write_parquet(folder / "data" / "test-00000-of-00002.parquet", test[:3], row_group_size=2)
    write_parquet(folder / "data" / "test-00001-of-00002.parquet", test[3:])
    if readme:
        (folder / "README.md").write_text(README)
    return folder
