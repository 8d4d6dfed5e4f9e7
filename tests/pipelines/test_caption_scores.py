"""Scores of captions: from the pipeline's own features, the same in every batch, with silence and doubt said."""

import json

import numpy as np
import pytest
import soundfile
import torch

from diffusion_link_hf import AudioCaptionPipeline, CaptionScorer, InputError
from diffusion_link_hf.audio import split_windows
from diffusion_link_hf.cli import main
from support.models import make_pipeline

RATE = 48_000
SILENT = np.zeros(RATE, np.float32)


@pytest.fixture(scope="module")
def pipe() -> AudioCaptionPipeline:
    pipe = make_pipeline()
    return AudioCaptionPipeline(**{**pipe.components, "scorer": CaptionScorer(0.5, [1.0, 0.2, -0.01, 0.5], 0.0)})


def recordings(count: int = 5) -> list[np.ndarray]:
    time = np.arange(RATE) / RATE
    return [(0.3 * np.sin(2 * np.pi * 110 * 1.3**k * time)).astype(np.float32) for k in range(count)]


def test_without_a_scorer_there_are_no_scores():
    output = make_pipeline()([*recordings(2), SILENT], RATE)
    assert output.scores == [None, None, None]
    assert all(segment.score is None for own in output.segments for segment in own)
    assert "Silence" not in output.captions


def test_scores_are_the_scorers_of_the_pipelines_features(pipe):
    audio = recordings(3)
    output = pipe(audio, RATE)
    embeds = pipe.encode_audio([split_windows(each)[0] for each in audio])
    features = pipe.caption_features(embeds, output.captions)
    assert features.shape == (3, 4)
    assert output.scores == pipe.scorer.scores(features).tolist()
    cosine = (embeds * pipe.clap.encode_text(output.captions)).sum(1)
    torch.testing.assert_close(features[:, 0], cosine, atol=1e-5, rtol=0)
    assert (features[:, 1] < 0).all()
    bridged = pipe.bridge(embeds)
    assert torch.equal(pipe.caption_features(embeds, output.captions, bridged), features)


def test_scores_do_not_depend_on_the_batch(pipe):
    audio = [*recordings(5), SILENT]
    together = pipe(audio, RATE)
    for size in (1, 2, 4):
        again = pipe(audio, RATE, batch_size=size)
        assert again.captions == together.captions
        assert again.scores == pytest.approx(together.scores, abs=1e-6)


def test_silence_is_called_silence(pipe):
    tone = recordings(1)[0]
    faint = (1e-4 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
    output = pipe([SILENT, faint, tone], RATE)
    assert output.captions[:2] == ["Silence", "Silence"]
    assert output.scores[:2] == [1.0, 1.0]
    assert output.captions[2] != "Silence"
    late = np.concatenate([np.zeros(10 * RATE, np.float32), np.tile(tone, 5)])
    windows = pipe(late, RATE)
    assert [segment.text == "Silence" for segment in windows.segments[0]] == [True, False]
    assert windows.scores[0] == pytest.approx(np.mean([segment.score for segment in windows.segments[0]]))
    averaged = pipe(late, RATE, long_audio="average")
    assert averaged.captions == pipe(np.tile(tone, 5), RATE).captions, "silent windows are left out of the mean"
    assert pipe(np.zeros(12 * RATE, np.float32), RATE, long_audio="average").captions == ["Silence"]


def test_what_is_unknown_is_hedged(pipe):
    audio = recordings(3)
    plain, all_unknown = pipe(audio, RATE), pipe([*audio, SILENT], RATE, unknown_below=1.0)
    assert all(caption.startswith("An unknown sound") for caption in all_unknown.captions[:3])
    assert all_unknown.captions[3] == "Silence"
    assert all_unknown.scores[:3] == plain.scores
    with pytest.raises(InputError, match="unknown_below"):
        pipe(audio, RATE, unknown_below=1.5)
    with pytest.raises(InputError, match="no scorer"):
        make_pipeline()(audio, RATE, unknown_below=0.5)


def test_every_returned_caption_has_a_score(pipe):
    output = pipe(recordings(2), RATE, num_beams=3, num_return_sequences=3)
    assert len(output.scores) == len(output.captions) == 6
    for k, (segment,) in enumerate(output.segments):
        assert output.scores[3 * k : 3 * k + 3] == [segment.score, *segment.alternative_scores]


def test_an_input_that_failed_has_none(pipe):
    output = pipe([recordings(1)[0], np.zeros(0, np.float32)], RATE)
    assert output.scores[0] is not None
    assert output.scores[1] is None


def test_a_folder_keeps_the_scorer(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    audio = recordings(2)
    assert AudioCaptionPipeline.from_pretrained(tmp_path)(audio, RATE).scores == pipe(audio, RATE).scores
    assert AudioCaptionPipeline.from_pretrained(tmp_path, scorer=None)(audio, RATE).scores == [None, None]
    assert AudioCaptionPipeline.from_config(tmp_path).scorer.config.bias == 0.5
    index = json.loads((tmp_path / "model_index.json").read_text())
    del index["scorer"]  # as folders of earlier versions
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert AudioCaptionPipeline.from_pretrained(tmp_path).scorer is None
    assert AudioCaptionPipeline.from_config(tmp_path).scorer is None


def test_features_need_a_caption_for_each_row(pipe):
    embeds = pipe.encode_audio([split_windows(recordings(1)[0])[0]])
    for captions in (["a", "b"], "a"):
        with pytest.raises(InputError, match="captions"):
            pipe.caption_features(embeds, captions)
    assert pipe.caption_features(embeds[:0], []).shape == (0, 4)


def test_the_command_prints_scores(pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path / "model")
    soundfile.write(tmp_path / "a.wav", recordings(1)[0], RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", SILENT, RATE, subtype="FLOAT")
    files = [str(tmp_path / name) for name in ("a.wav", "b.wav")]
    command = ["caption", "--model", str(tmp_path / "model")]
    assert main([*command, "--score", *files]) == 0
    score = pipe(files[0]).scores[0]
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(f"({score:.2f})")
    assert second.endswith("b.wav: Silence (1.00)")
    assert main([*command, "--json", *files]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["captions"][0]["score"] for row in rows] == [pytest.approx(score), 1.0]
    make_pipeline().save_pretrained(tmp_path / "plain")
    assert main([*command[:2], str(tmp_path / "plain"), "--json", files[0]]) == 0
    assert "score" not in json.loads(capsys.readouterr().out)["captions"][0]
