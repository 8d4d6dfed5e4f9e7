"""The shallow sampler against a loop over `DDIMScheduler.step` on the same network, and against its matrix products."""

from collections.abc import Iterator

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch.nn import functional as F

from diffusion_link_hf import DiffusionLinkModel, make_scheduler
from harness import Row, Settings, agree, interleave, needs_gpu

BATCHES = (1, 64, 4096)
WIDTH, BLOCKS, STEPS, S_STAR = 512, 3, 5, 100
FASTER = {1: 3.0, 64: 1.8, 4096: 1.8}
TO_FLOOR = {4096: 1.3}
TOLERANCE = 1e-5  # of unit rows


def rows(settings: Settings) -> Iterator[Row]:
    for batch in BATCHES:
        wanted = f"≥ {FASTER[batch]:g}× the loop" + (f", ≤ {TO_FLOOR[batch]:g}× the floor" if batch in TO_FLOOR else "")
        name = f"bridging, batch {batch}" + (", GPU" if settings.device == "cuda" else "")
        if settings.device == "cuda" and not torch.cuda.is_available():
            yield needs_gpu("bridging", name, wanted)
            continue
        yield _row(name, settings.scaled(batch), FASTER[batch], TO_FLOOR.get(batch), wanted, settings)


def make_link(device: str = "cpu") -> DiffusionLinkModel:
    """A link of the default size with random weights everywhere, so that a difference would show."""
    torch.manual_seed(0)
    link = DiffusionLinkModel(width=WIDTH, num_blocks=BLOCKS, num_inference_steps=STEPS, noise_timestep=S_STAR).eval()
    for parameter in link.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    link.audio_mean.normal_(std=0.02)
    return link.to(device)


def plain_network(link: DiffusionLinkModel, sample: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """The link's layers put together as RCG's code does it. (B, D), (B,) or (1,) → (B, D)."""
    width, network = link.config.time_embed_dim, link.denoiser
    t = network.time_embed(get_timestep_embedding(timesteps, width, flip_sin_to_cos=True, downscale_freq_shift=0))
    x = network.proj_in(sample)
    for block in network.blocks:
        hidden = block.in_layers(x)
        hidden = hidden + block.time_layers(t)
        x = x + block.out_layers(hidden)
    return network.proj_out(x)


@torch.no_grad()
def plain_loop(
    link: DiffusionLinkModel, scheduler, embeds: torch.Tensor, noise: torch.Tensor, each_row: bool = True
) -> torch.Tensor:
    """The same sampling as one writes it with diffusers. (B, D), (1, D) → (B, D) unit rows.

    ``each_row``: the network is told the timestep of every row, as by RCG's sampler and within diffusers' own models;
    otherwise one for all.
    """
    centered = F.normalize(F.normalize(embeds, dim=-1) - link.audio_mean, dim=-1) * link.config.scale
    stride = S_STAR // STEPS
    scheduler.set_timesteps(scheduler.config.num_train_timesteps // stride)  # 999, 979, …, 99, 79, 59, 39, 19
    timesteps = scheduler.timesteps[-STEPS:]
    state = scheduler.add_noise(centered, noise.expand_as(centered), timesteps[:1])
    for timestep in timesteps:
        told = timestep.to(state.device).expand(len(state) if each_row else 1)
        predicted = plain_network(link, state, told)
        state = scheduler.step(predicted, timestep, state).prev_sample
    return F.normalize(state, dim=-1)


def products(link: DiffusionLinkModel, batch: int):
    """The large matrix products of all steps with the link's own weights, and nothing else."""
    network = link.denoiser
    blocks = [layer for block in network.blocks for layer in (block.in_layers[-1], block.out_layers[-1])]
    weights = [layer.weight.detach() for layer in (network.proj_in, *blocks, network.proj_out[-1])]
    inputs = [torch.randn(batch, weight.shape[1], device=link.device) for weight in weights]

    def work():
        for _ in range(STEPS):
            for value, weight in zip(inputs, weights, strict=True):
                value @ weight.T

    return work


def _row(name: str, batch: int, faster: float, to_floor: float | None, wanted: str, settings: Settings) -> Row:
    link, scheduler, stock = make_link(settings.device), make_scheduler(), make_scheduler()
    generator = torch.Generator().manual_seed(0)
    embeds = F.normalize(torch.randn(batch, 512, generator=generator), dim=-1).to(settings.device)
    noise = torch.randn(1, 512, generator=generator).to(settings.device)

    def ours():
        return link.bridge(embeds, "audio", scheduler=scheduler, noise=noise)

    def peer():
        return plain_loop(link, stock, embeds, noise)

    def shared():
        return plain_loop(link, stock, embeds, noise, each_row=False)

    difference = max(agree(name, ours(), other(), TOLERANCE) for other in (peer, shared))
    contestants = {"ours": ours, "peer": peer, "shared": shared, "floor": products(link, batch)}
    times, repeats = interleave(contestants, settings)
    alternative = times.pop("shared")
    met = times["peer"] >= faster * times["ours"]
    met = met and (to_floor is None or times["ours"] <= to_floor * times["floor"])
    note = (
        f"floor: the {STEPS} networks' large matrix products; results differ by {difference:.1e} at most; "
        f"a loop that gives all rows one timestep takes {alternative / times['ours']:.2f}× our time"
    )
    threads = torch.get_num_threads()
    more = {"peer_one_timestep": alternative}
    return Row(
        "bridging", name, **times, wanted=wanted, met=met, note=note, threads=threads, repeats=repeats, more=more
    )
