"""Captions in batches against `model.generate(inputs_embeds=…)` called clip by clip, with the embedded pipeline."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from diffusion_link_hf import AudioCaptionPipeline
from harness import TINY, DisagreementError, Row, Settings, interleave, needs_gpu

BATCHES = (1, 16, 64)
FASTER = {64: 10.0}
MAX_NEW_TOKENS = 40


def rows(settings: Settings) -> Iterator[Row]:
    on_gpu = settings.device == "cuda"
    pipeline = None
    for batch in BATCHES:
        name = f"captions by tiny, batch {batch}" + (", GPU" if on_gpu else "")
        wanted = f"≥ {FASTER[batch]:g}× clip by clip" if batch in FASTER and not on_gpu else ""
        if on_gpu and not torch.cuda.is_available():
            yield needs_gpu("generation", name, wanted)
            continue
        pipeline = pipeline or AudioCaptionPipeline.from_pretrained(TINY).to(settings.device)
        yield _row(name, pipeline, settings.scaled(batch), FASTER.get(batch) if wanted else None, wanted, settings)
    if on_gpu:
        yield _decode_step(settings)


def make_embeds(pipeline: AudioCaptionPipeline, count: int) -> torch.Tensor:
    """(N, D) unit rows of captions' own text embeddings, so that captions differ in words and length."""
    things = (
        "a dog",
        "a rooster",
        "rain",
        "a baby",
        "a clock",
        "a helicopter",
        "an engine",
        "a bell",
        "thunder",
        "wind",
    )
    texts = [f"{first} and then {second}" for first in things for second in things if first != second]
    texts = [*things, *texts]
    embeds = pipeline.clap.encode_text([texts[k % len(texts)] for k in range(count)])
    return pipeline.bridge(embeds, "text")


@torch.no_grad()
def clip_by_clip(pipeline: AudioCaptionPipeline, embeds: torch.Tensor) -> list[str]:
    """Greedy captions, one call of `generate` each."""
    decoder, captions = pipeline.decoder, []
    tokenizer, model = decoder.tokenizer, decoder.model
    head = model.get_input_embeddings()(torch.tensor([[tokenizer.bos_token_id]], device=model.device))
    for row in F.normalize(embeds, dim=-1):
        prefix = pipeline.projector(row[None].to(pipeline.projector.dtype))
        prompt = torch.cat([head, prefix.to(head.dtype)], dim=1)
        ids = model.generate(
            inputs_embeds=prompt,
            attention_mask=torch.ones(prompt.shape[:2], dtype=torch.long, device=prompt.device),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        captions.append(tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip())
    return captions


def _row(
    name: str,
    pipeline: AudioCaptionPipeline,
    batch: int,
    faster: float | None,
    wanted: str,
    settings: Settings,
) -> Row:
    embeds = make_embeds(pipeline, batch)

    def ours() -> list[str]:
        return [captions[0] for captions in pipeline.decode(embeds, max_new_tokens=MAX_NEW_TOKENS)]

    def peer() -> list[str]:
        return clip_by_clip(pipeline, embeds)

    for mine, theirs in zip(ours(), peer(), strict=True):
        if mine != theirs:
            raise DisagreementError(f"{name}: {mine!r} against {theirs!r}")
    times, repeats = interleave({"ours": ours, "peer": peer}, settings)
    met = None if faster is None else times["peer"] >= faster * times["ours"]
    note = f"the same captions; {batch / times['ours']:.0f} clips/s"
    threads = torch.get_num_threads()
    return Row("generation", name, **times, wanted=wanted, met=met, note=note, threads=threads, repeats=repeats)


def _decode_step(settings: Settings) -> Row:
    """One token of a language model of LLaMA-2 7B's shape, random weights, against reading its weights once."""
    name, wanted = "decode step, 7B in bfloat16, batch 1, GPU", "≤ 1.5× weights / bandwidth"
    if not torch.cuda.is_available():
        return needs_gpu("generation", name, wanted)
    from transformers import LlamaConfig, LlamaForCausalLM

    from diffusion_link_hf import CaptionDecoder

    with torch.device("cuda"):
        model = LlamaForCausalLM._from_config(LlamaConfig(), dtype=torch.bfloat16).eval()
    tokenizer = AudioCaptionPipeline.from_pretrained(TINY).decoder.tokenizer
    decoder = CaptionDecoder(model, tokenizer)
    prefix = torch.randn(1, 10, model.config.hidden_size, device="cuda", dtype=torch.bfloat16)
    few, many = 8, 40

    def write(tokens: int):
        return lambda: decoder.generate(prefix, max_new_tokens=tokens, min_new_tokens=tokens)

    weights = torch.empty(sum(parameter.numel() for parameter in model.parameters()), dtype=torch.int16, device="cuda")
    times, repeats = interleave({"few": write(few), "many": write(many), "read": weights.sum}, settings)
    ours = (times["many"] - times["few"]) / (many - few)
    met = ours <= 1.5 * times["read"]
    note = "floor: one pass over as many bytes"
    return Row("generation", name, ours, None, times["read"], wanted=wanted, met=met, note=note, repeats=repeats)
