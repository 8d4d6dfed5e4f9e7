"""Training of the link against the loop that one writes with diffusers and Accelerate; seconds per step."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from bridging import plain_network
from diffusion_link_hf import DiffusionLinkModel, EmbeddingPairs, make_scheduler, train_bridge
from diffusion_link_hf.bridges.losses import diffusion_loss, topology_loss
from harness import DisagreementError, Row, Settings, interleave, needs_gpu

BATCH, WIDTH, RATE, DECAY = 128, 512, 5e-4, 0.995
FEW, MANY = 5, 45  # steps of the two runs whose difference is what 40 steps take
DATA_ROWS = 4096
TOLERANCE = 0.1  # of the losses that both reach: batches and noise are drawn differently
WANTED, WANTED_GPU = "≥ 1.5× the loop", "≥ 5× the loop"


def rows(settings: Settings) -> Iterator[Row]:
    on_gpu = settings.device == "cuda"
    name = f"link training, a step of batch {BATCH}, width {WIDTH}" + (", GPU" if on_gpu else "")
    if on_gpu and not torch.cuda.is_available():
        yield needs_gpu("link_training", name, WANTED_GPU)
        return
    pairs = make_pairs(DATA_ROWS)
    _check(name, pairs)
    with tempfile.TemporaryDirectory() as folder:
        times, repeats = interleave(
            {
                "few": lambda: ours(pairs, FEW, folder),
                "many": lambda: ours(pairs, settings.scaled(MANY, FEW + 5), folder),
                "peer_few": lambda: plain_loop(pairs, FEW, settings.device),
                "peer_many": lambda: plain_loop(pairs, settings.scaled(MANY, FEW + 5), settings.device),
                "floor": products(settings.device),
            },
            settings,
        )
    steps = settings.scaled(MANY, FEW + 5) - FEW
    own, peer = (times["many"] - times["few"]) / steps, (times["peer_many"] - times["peer_few"]) / steps
    met = peer >= (5 if on_gpu else 1.5) * own
    note = f"floor: the matrix products of both branches, forward and backward; {1 / own:.0f} steps/s"
    threads = torch.get_num_threads()
    wanted = WANTED_GPU if on_gpu else WANTED
    yield Row("link_training", name, own, peer, times["floor"], wanted, met, note, threads, repeats)


def make_pairs(count: int) -> EmbeddingPairs:
    """Random pairs whose sides share a linear map, so that there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    source = F.normalize(torch.randn(count, 512, generator=generator), dim=-1)
    mixing = torch.randn(512, 512, generator=generator) / 512**0.5
    return EmbeddingPairs(source, F.normalize(source @ mixing, dim=-1))


def ours(pairs: EmbeddingPairs, steps: int, folder: str) -> DiffusionLinkModel:
    """The package's own entry; the link has the averaged weights."""
    return train_bridge(
        "diffusion-link",
        pairs,
        Path(folder),
        steps=steps,
        batch_size=BATCH,
        learning_rate=RATE,
        ema_decay=DECAY,
        lr_decay=1.0,
        validation_fraction=0.0,
        model={"width": WIDTH},
        resume=False,
        progress=False,
    )


class PlainLink(DiffusionLinkModel):
    """The link with its layers put together as RCG's code does it."""

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return plain_network(self, sample, timestep)


def plain_loop(pairs: EmbeddingPairs, steps: int, device: str) -> DiffusionLinkModel:
    """The same with `DataLoader`, Accelerate, `EMAModel` and Adam; the link has the averaged weights."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=device == "cpu")
    link, scheduler = PlainLink(width=WIDTH), make_scheduler()
    link.fit_statistics(pairs.source, pairs.target)
    data = TensorDataset(link.normalize(pairs.source, "audio"), link.normalize(pairs.target, "text"))
    optimizer = torch.optim.Adam(link.parameters(), lr=RATE)
    link, optimizer, loader = accelerator.prepare(
        link, optimizer, DataLoader(data, BATCH, shuffle=True, drop_last=True)
    )
    average = EMAModel(link.parameters(), decay=DECAY, min_decay=0.0, use_ema_warmup=False)
    link.train()
    done = 0
    while done < steps:
        for audio, text in loader:
            predictions = []
            for clean in (text, audio):
                timesteps = torch.randint(1000, (len(clean),), device=clean.device)
                noised = scheduler.add_noise(clean, torch.randn_like(clean), timesteps)
                predictions.append(link(noised, timesteps))
            loss = diffusion_loss(text, *predictions) + topology_loss(text, predictions[1])
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            average.step(link.parameters())
            done += 1
            if done == steps:
                break
    average.copy_to(link.parameters())
    return link.eval()


def products(device: str):
    """The matrix products of one step: both branches in one batch, forward, and twice that backward.

    Neither the embeddings nor the sinusoids of the timesteps take a gradient, which saves a product each.
    """
    wide = [torch.randn(WIDTH, WIDTH, device=device) for _ in range(8)]  # input, two in each of 3 blocks, output
    time = [torch.randn(rows, 256, device=device) for rows in (256, 256, WIDTH, WIDTH, WIDTH)]
    groups = [(torch.randn(2 * BATCH, weights[0].shape[1], device=device), weights) for weights in (wide, time)]

    def work():
        for inputs, weights in groups:
            for k, weight in enumerate(weights):
                outputs = inputs @ weight.T
                outputs.T @ inputs
                if k:
                    outputs @ weight

    return work


@torch.no_grad()
def _loss(link: DiffusionLinkModel, pairs: EmbeddingPairs) -> float:
    """Mean squared error of the bridged training rows at fixed noise."""
    link = link.cpu()
    return (link.bridge(pairs.source[:1024], "audio") - link.target(pairs.target[:1024])).square().sum(1).mean().item()


def _check(name: str, pairs: EmbeddingPairs) -> None:
    """Both loops leave the link equally good after the same number of steps."""
    with tempfile.TemporaryDirectory() as folder:
        own, peer = _loss(ours(pairs, MANY, folder), pairs), _loss(plain_loop(pairs, MANY, "cpu"), pairs)
    if abs(own - peer) > TOLERANCE * max(own, peer):
        raise DisagreementError(f"{name}: after {MANY} steps the losses are {own:.3f} and {peer:.3f}")
