"""Trains Diffusion-Link on an embedding cache: L_diff + L_topo, Adam with step decay, averaged weights."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from torch.nn import functional as F
from tqdm import tqdm

from ..data.embedding_cache import EmbeddingCache
from ..errors import RecipeError
from ..models.diffusion_link import DiffusionLinkModel
from ..objectives import total_loss
from ..sampling import add_noise, make_scheduler
from .arguments import LinkTrainingArguments, available_tracker
from .checkpoints import identity, load_checkpoint, save_checkpoint


def train_link(args: LinkTrainingArguments) -> dict[str, float]:
    """Run the link stage.

    Writes ``output/link`` (averaged weights and statistics), ``output/scheduler`` and ``output/metrics.json``. Batch,
    timesteps and noise of a step are a function of (seed, step) alone, so a run that was killed and started again
    ends with the same bits as one that was not.

    Returns:
        Matched cosines on the validation part (`validation_cosines`), also in metrics.json.
    """
    output = Path(args.output)
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        log_with=available_tracker(args),
        project_dir=output / "logs",
    )
    if accelerator.num_processes > 1:
        raise RecipeError(
            "accelerate launch --num_processes",
            f"is {accelerator.num_processes} for the link stage",
            "Use 1: the topology loss needs the whole batch, and a step takes milliseconds",
        )
    cache = EmbeddingCache.load(args.cache)
    train, validation = cache.split(args.validation_fraction, args.seed)
    set_seed(args.seed)
    link = DiffusionLinkModel(**{**args.model, "embedding_dim": cache.embedding_dim})
    link.fit_statistics(train.audio, train.text)
    scheduler = make_scheduler()
    optimiser = torch.optim.Adam(link.parameters(), lr=args.learning_rate)
    decay = torch.optim.lr_scheduler.StepLR(optimiser, args.lr_decay_every, args.lr_decay)
    link, optimiser = accelerator.prepare(link, optimiser)
    average = EMAModel(link.parameters(), decay=args.ema_decay, min_decay=0.0, use_ema_warmup=False)

    who = identity(asdict(args), cache.fingerprint)
    step = 0
    saved = load_checkpoint(output / "checkpoints", who) if args.resume else None
    if saved:
        step, state = saved
        link.load_state_dict(state["link"])
        optimiser.load_state_dict(state["optimiser"])
        decay.load_state_dict(state["decay"])
        average.load_state_dict(state["average"])
    average.to(accelerator.device)
    if args.report_to != "none":
        accelerator.init_trackers(
            "link", {k: v for k, v in asdict(args).items() if isinstance(v, (int, float, str, bool))}
        )

    device = accelerator.device
    # Normalised once: the statistics do not change while training.
    text = link.normalize(train.text.to(device), "text")
    audio = link.normalize(train.audio.to(device), "audio") if len(train.audio) else None
    owners = train.caption_audio.to(device)
    bar = tqdm(total=args.max_steps, initial=step, desc="link", disable=not accelerator.is_main_process, mininterval=2)
    link.train()
    while step < args.max_steps:
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        rows = torch.randint(len(text), (args.batch_size,), generator=generator).to(device)
        timesteps = torch.randint(args.max_train_timestep, (2, args.batch_size), generator=generator).to(device)
        noise = torch.randn(2, args.batch_size, text.shape[1], generator=generator).to(device)
        torch.manual_seed(args.seed * 1_000_003 + step)  # dropout
        clean = text[rows]
        paired = owners[rows] >= 0
        loss = _step_loss(link, scheduler, clean, audio, owners[rows], paired, timesteps, noise, args, accelerator)
        optimiser.zero_grad(set_to_none=True)
        accelerator.backward(loss.total)
        if args.max_grad_norm:
            accelerator.clip_grad_norm_(link.parameters(), args.max_grad_norm)
        optimiser.step()
        decay.step()
        average.step(link.parameters())
        step += 1
        bar.update()
        if step % args.log_every == 0:
            values = {"loss": loss.total.item(), "diffusion": loss.diffusion.item(), "topology": loss.topology.item()}
            bar.set_postfix({k: f"{v:.3f}" for k, v in values.items()}, refresh=False)
            accelerator.log(
                {**{f"train/{k}": v for k, v in values.items()}, "train/learning_rate": decay.get_last_lr()[0]}, step
            )
        if step % args.validate_every == 0 and len(validation.text):
            with _averaged(link, average):
                accelerator.log(
                    {f"validation/{k}": v for k, v in validation_cosines(link, train, validation).items()}, step
                )
        if step % args.checkpoint_every == 0 and step < args.max_steps:
            state = {
                "link": link.state_dict(),
                "optimiser": optimiser.state_dict(),
                "decay": decay.state_dict(),
                "average": average.state_dict(),
            }
            save_checkpoint(output / "checkpoints", step, state, who, args.keep_checkpoints)
    bar.close()
    average.copy_to(link.parameters())
    link = accelerator.unwrap_model(link).eval()
    link.save_pretrained(output / "link")
    scheduler.save_pretrained(output / "scheduler")
    metrics = validation_cosines(link, train, validation) if len(validation.text) else {}
    (output / "metrics.json").write_text(json.dumps({"steps": step, **metrics}, indent=2) + "\n", encoding="utf-8")
    accelerator.end_training()
    return metrics


def _step_loss(link, scheduler, clean, audio, owners, paired, timesteps, noise, args, accelerator):
    """One step's losses; text→text and audio→text go through the network as one batch, with independent noise."""
    parts, steps = [], []
    if args.text_to_text:
        parts.append(add_noise(clean, noise[0], timesteps[0], scheduler))
        steps.append(timesteps[0])
    has_audio = audio is not None and bool(paired.any())
    if has_audio:
        parts.append(add_noise(audio[owners[paired]], noise[1][paired], timesteps[1][paired], scheduler))
        steps.append(timesteps[1][paired])
    if not parts:
        raise RecipeError(
            "text_to_text", "is false, but the cache has no audio", "There would be nothing to learn from"
        )
    with accelerator.autocast():
        predicted = link(torch.cat(parts), torch.cat(steps), return_dict=False)[0].float()
    from_text = predicted[: len(clean)] if args.text_to_text else None
    from_audio = predicted[-int(paired.sum()) :] if has_audio else None
    options = {
        "topology_weight": args.topology_weight,
        "topology_source": args.topology_source,
        "topology_reduction": args.topology_reduction,
    }
    if from_text is None:
        return total_loss(clean[paired], from_audio, None, **{**options, "topology_source": "text"})
    if from_audio is not None and not bool(paired.all()):
        # Captions without audio have only the text→text branch.
        mixed = total_loss(clean[paired], from_text[paired], from_audio, **options)
        alone = total_loss(clean[~paired], from_text[~paired], None, topology_weight=0.0)
        share = paired.float().mean()
        for name in ("total", "diffusion"):
            setattr(mixed, name, share * getattr(mixed, name) + (1 - share) * getattr(alone, name))
        return mixed
    return total_loss(clean, from_text, from_audio, **options)


class _averaged:
    """Within it the model has the averaged weights."""

    def __init__(self, link, average: EMAModel):
        self.link, self.average = link, average

    def __enter__(self):
        self.link.eval()
        self.average.store(self.link.parameters())
        self.average.copy_to(self.link.parameters())

    def __exit__(self, *_):
        self.average.restore(self.link.parameters())
        self.link.train()


def matched_cosine(generated: torch.Tensor, text: torch.Tensor) -> float:
    """Mean cosine of matched rows. (K, D), (K, D)."""
    return F.cosine_similarity(generated.float(), text.float(), dim=-1).mean().item()


@torch.no_grad()
def validation_cosines(link: DiffusionLinkModel, train: EmbeddingCache, validation: EmbeddingCache) -> dict[str, float]:
    """Matched cosine audio → text of raw, centred, ridge-regressed and linked embeddings, and text → text of the link.

    Raw embeddings are compared with raw text, the others with centred text, the link's target (paper §2).
    The ridge is fitted on the training part, its strength chosen on a tenth of it.
    """
    pairs = validation.caption_audio >= 0
    if not pairs.any():
        return {}
    audio, text = (
        validation.audio[validation.caption_audio[pairs]].to(link.device),
        validation.text[pairs].to(link.device),
    )
    target = link.normalize(text, "text")
    centred = link.normalize(audio, "audio")
    solve = fit_ridge(link, train)
    return {
        "raw": matched_cosine(audio, text),
        "centred": matched_cosine(centred, target),
        "ridge": matched_cosine(solve(centred), target),
        "link": matched_cosine(link.bridge(audio, "audio"), target),
        "link_text_to_text": matched_cosine(link.bridge(text, "text"), target),
    }


def fit_ridge(link: DiffusionLinkModel, train: EmbeddingCache):
    """Ridge regression from normalised audio to normalised text, the baseline that every table needs."""
    pairs = train.caption_audio >= 0
    x = link.normalize(train.audio[train.caption_audio[pairs]].to(link.device), "audio").double()
    y = link.normalize(train.text[pairs].to(link.device), "text").double()
    held = max(1, len(x) // 10)

    def solve(x, y, strength):
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        return torch.linalg.solve(x.T @ x + strength * len(x) * eye, x.T @ y)

    # Rows of one recording are neighbours, so the last tenth shares at most one recording with the rest.
    strengths = [10.0**k for k in range(-5, 3)]
    best = max(strengths, key=lambda s: matched_cosine(x[-held:] @ solve(x[:-held], y[:-held], s), y[-held:]))
    weights = solve(x, y, best)
    return lambda centred: (centred.double() @ weights).float()
