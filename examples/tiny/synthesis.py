"""Sounds made by formula: sixteen classes that widen the tiny pipeline beyond the recordings it was trained on."""

from collections.abc import Callable

import numpy as np
from scipy.signal import butter, fftconvolve, sosfilt

RATE = 48_000  # Hz


def _silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE))


def _time(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * RATE)) / RATE


def _noise(rng: np.random.Generator, seconds: float, low: float, high: float) -> np.ndarray:
    """White noise between ``low`` and ``high`` Hz, unit variance."""
    white = rng.standard_normal(round(seconds * RATE))
    band = sosfilt(butter(2, [low, min(high, 0.49 * RATE)], "bandpass", fs=RATE, output="sos"), white)
    return band / (band.std() + 1e-12)


def _wander(rng: np.random.Generator, seconds: float, rate: float) -> np.ndarray:
    """A smooth random curve in [0, 1] that turns about ``rate`` times a second."""
    knots = rng.random(max(3, int(seconds * rate) + 3))
    x = np.linspace(0, len(knots) - 1, round(seconds * RATE))
    left = np.minimum(x.astype(int), len(knots) - 2)
    weight = 0.5 - 0.5 * np.cos(np.pi * (x - left))
    return knots[left] * (1 - weight) + knots[left + 1] * weight


def _tone(frequency: np.ndarray | float, seconds: float, harmonics: np.ndarray) -> np.ndarray:
    """Sum of harmonics with the given amplitudes over a fixed or moving fundamental (Hz)."""
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(frequency, (round(seconds * RATE),))) / RATE
    return sum(a * np.sin((k + 1) * phase) for k, a in enumerate(harmonics))


def _fade(samples: np.ndarray, seconds: float = 0.01) -> np.ndarray:
    n = min(len(samples) // 2, round(seconds * RATE))
    ramp = np.linspace(0, 1, n)
    samples = samples.copy()
    samples[:n] *= ramp
    samples[len(samples) - n :] *= ramp[::-1]
    return samples


def _place(out: np.ndarray, sound: np.ndarray, at: float) -> None:
    """Add ``sound`` into ``out`` at ``at`` seconds; what runs past the end is cut."""
    start = round(at * RATE)
    if start < len(out):
        stop = min(len(out), start + len(sound))
        out[start:stop] += sound[: stop - start]


def _repeat(rng, seconds: float, interval: float, jitter: float, make: Callable[[], np.ndarray]) -> np.ndarray:
    """``make()`` again and again every ``interval`` seconds, each shifted by up to ``jitter`` of the interval."""
    out, at = _silence(seconds), rng.uniform(0, min(interval, 0.5))
    while at < seconds - 0.05:
        _place(out, make(), at)
        at += interval * (1 + jitter * rng.uniform(-1, 1))
    return out


def _room(rng, samples: np.ndarray, wet: float) -> np.ndarray:
    """A short exponential reverberation."""
    t = _time(rng.uniform(0.15, 0.5))
    impulse = rng.standard_normal(len(t)) * np.exp(-6 * t / t[-1])
    tail = fftconvolve(samples, impulse / np.sqrt((impulse**2).sum()))[: len(samples)]
    return samples + wet * tail


def alarm_beep(rng, seconds):
    f, on, off = rng.uniform(1800, 3600), rng.uniform(0.08, 0.3), rng.uniform(0.08, 0.4)
    beep = _fade(_tone(f, on, np.array([1, 0.1, 0.3 * rng.random()])), 0.004)
    return _repeat(rng, seconds, on + off, 0, lambda: beep)


def applause(rng, seconds):
    out = _silence(seconds)
    for _ in range(int(seconds * rng.uniform(50, 140))):
        center = rng.uniform(700, 2600)
        t = _time(0.03)
        clap = _noise(rng, 0.03, center * 0.6, center * 1.7) * np.exp(-t / rng.uniform(0.003, 0.008))
        _place(out, clap * rng.uniform(0.2, 1), rng.uniform(0, seconds))
    return _room(rng, out, 0.3) * (0.5 + 0.5 * _wander(rng, seconds, 0.5))


def bell(rng, seconds):
    f = rng.uniform(180, 900)
    ratios = np.array([0.5, 1, 1.19, 1.5, 2, 2.51, 3.01, 4.17]) * (1 + 0.004 * rng.standard_normal(8))
    amplitudes = rng.uniform(0.3, 1, 8) / np.arange(1, 9) ** 0.6
    decay = rng.uniform(0.7, 2.5)

    def strike():
        t = _time(min(4.0, seconds))
        parts = (
            a * np.sin(2 * np.pi * f * r * t) * np.exp(-t * r**0.7 / decay)
            for a, r in zip(amplitudes, ratios, strict=True)
        )
        return sum(parts) * rng.uniform(0.8, 1)

    return _repeat(rng, seconds, rng.uniform(0.9, 2.5), 0.03, strike)


def bird_chirp(rng, seconds):
    base, n = rng.uniform(2600, 5200), int(rng.integers(2, 7))
    span, length = rng.uniform(300, 1800) * rng.choice([-1, 1]), rng.uniform(0.04, 0.14)

    def call():
        out = _silence(n * length * 1.5 + 0.2)
        for k in range(n):
            t = _time(length)
            f = base + span * (t / length) + 120 * np.sin(2 * np.pi * 30 * t)
            _place(out, _tone(f, length, np.array([1, 0.15])) * np.hanning(len(t)), k * length * 1.4)
        return out * rng.uniform(0.5, 1)

    return _repeat(rng, seconds, rng.uniform(0.7, 1.6), 0.4, call)


def cricket(rng, seconds):
    f, rate = rng.uniform(4000, 5600), rng.uniform(25, 45)
    t = _time(seconds)
    pulses = np.maximum(0, np.sin(2 * np.pi * rate * t)) ** 2
    song = (np.sin(2 * np.pi * rng.uniform(1.2, 3) * t + rng.uniform(0, 6)) > -0.3).astype(float)
    return _tone(f, seconds, np.array([1, 0.2])) * pulses * (0.1 + 0.9 * song)


def engine(rng, seconds):
    low, high = np.sort(rng.uniform(38, 130, 2))
    f = low + (high - low) * _wander(rng, seconds, 0.6)
    harmonics = rng.uniform(0.3, 1, 24) / np.arange(1, 25) ** rng.uniform(0.5, 0.9)
    body = _tone(f, seconds, harmonics)
    return body / body.std() + rng.uniform(0.1, 0.35) * _noise(rng, seconds, 100, 1500)


def footsteps(rng, seconds):
    heel, floor = rng.uniform(90, 220), rng.uniform(900, 3000)

    def step():
        t = _time(0.16)
        thump = np.sin(2 * np.pi * heel * t * (1 - t)) * np.exp(-t / 0.03)
        scrape = _noise(rng, 0.16, floor * 0.5, floor * 1.6) * np.exp(-t / 0.02)
        tap = np.roll(scrape, round(rng.uniform(0.05, 0.08) * RATE)) * 0.5
        return (thump + 0.4 * scrape + 0.4 * tap) * rng.uniform(0.6, 1)

    return _room(rng, _repeat(rng, seconds, rng.uniform(0.45, 0.75), 0.06, step), 0.25)


def frog(rng, seconds):
    f, rate = rng.uniform(300, 700), rng.uniform(28, 60)

    def croak():
        length = rng.uniform(0.2, 0.45)
        t = _time(length)
        pulses = np.maximum(0, np.sin(2 * np.pi * rate * t)) ** 3
        tone = _tone(f * (1 + 0.15 * t / length), length, np.array([0.6, 1, 0.5, 0.7, 0.3, 0.2]))
        return tone * pulses * np.hanning(len(t)) ** 0.5

    return _repeat(rng, seconds, rng.uniform(0.5, 1.2), 0.3, croak)


def knocking(rng, seconds):
    n, gap, wood = int(rng.integers(2, 6)), rng.uniform(0.12, 0.22), rng.uniform(220, 520)

    def knocks():
        out = _silence(n * gap + 0.3)
        for k in range(n):
            t = _time(0.12)
            ring = sum(
                np.sin(2 * np.pi * wood * r * t) * np.exp(-t / d) for r, d in ((1, 0.03), (1.7, 0.018), (2.9, 0.01))
            )
            click = _noise(rng, 0.12, 300, 2500) * np.exp(-t / 0.005)
            _place(out, (ring + 0.5 * click) * rng.uniform(0.7, 1), k * gap * (1 + 0.05 * rng.standard_normal()))
        return out

    return _room(rng, _repeat(rng, seconds, n * gap + rng.uniform(0.6, 1.4), 0.1, knocks), 0.3)


def siren(rng, seconds):
    low, high, period = rng.uniform(450, 750), rng.uniform(1000, 1700), rng.uniform(0.35, 3.5)
    phase = (_time(seconds) / period + rng.random()) % 1
    shape = np.where(phase < 0.5, 2 * phase, 2 - 2 * phase) if rng.random() < 0.7 else (phase < 0.5).astype(float)
    return _room(rng, _tone(low + (high - low) * shape, seconds, np.array([1, 0.5, 0.35, 0.2, 0.1])), 0.2)


def telephone(rng, seconds):
    f1, f2, rate = rng.uniform(900, 1400), rng.uniform(1500, 2200), rng.uniform(16, 26)

    def ring():
        length = rng.uniform(0.9, 1.1)
        t = _time(length)
        hammer = 0.55 + 0.45 * np.sign(np.sin(2 * np.pi * rate * t))
        return _fade(
            (np.sin(2 * np.pi * f1 * t) + 0.8 * np.sin(2 * np.pi * f2 * t) + 0.4 * np.sin(2 * np.pi * 2.4 * f1 * t))
            * hammer
        )

    return _repeat(rng, seconds, rng.uniform(1.5, 2.2), 0, ring)


def thunder(rng, seconds):
    t = _time(seconds)
    out = 2.5 * _noise(rng, seconds, 20, 110) * _wander(rng, seconds, 3) ** 1.5
    strike = rng.uniform(0, min(1.0, seconds / 3))
    after = np.maximum(0, t - strike)
    crack = _noise(rng, seconds, 60, 900) * np.exp(-after / rng.uniform(0.3, 0.9)) * (t >= strike)
    return out * (0.15 + np.exp(-after / rng.uniform(1.5, 3.5)) * (t >= strike)) + 1.5 * crack


def typing(rng, seconds):
    body = rng.uniform(1800, 4200)

    def key():
        t = _time(0.06)
        click = _noise(rng, 0.06, body * 0.6, body * 2) * np.exp(-t / rng.uniform(0.002, 0.005))
        release = np.roll(click, round(rng.uniform(0.02, 0.035) * RATE)) * 0.4
        return (click + release) * rng.uniform(0.4, 1)

    return _repeat(rng, seconds, rng.uniform(0.1, 0.2), 0.75, key)


def water_drip(rng, seconds):
    f = rng.uniform(500, 1400)

    def drop():
        length = rng.uniform(0.05, 0.12)
        t = _time(length)
        return _tone(f * rng.uniform(0.9, 1.2) * (1 + 1.2 * t / length), length, np.array([1, 0.1])) * np.exp(
            -t / 0.025
        )

    return _room(rng, _repeat(rng, seconds, rng.uniform(0.5, 1.3), 0.35, drop), 0.35)


def whistle(rng, seconds):
    f, pea = rng.uniform(1900, 3200), rng.uniform(25, 45) * rng.integers(0, 2)

    def blow():
        length = rng.uniform(0.4, 1.3)
        t = _time(length)
        moving = f * (1 + 0.05 * (_wander(rng, length, 2) - 0.5))
        tone = _tone(moving, length, np.array([1, 0.08])) * (1 + 0.6 * np.sin(2 * np.pi * pea * t))
        return _fade(tone + 0.05 * _noise(rng, length, f * 0.8, f * 1.3), 0.03)

    return _repeat(rng, seconds, rng.uniform(1.2, 2.4), 0.2, blow)


def wind(rng, seconds):
    out = _silence(seconds)
    for center in rng.uniform(180, 900, 4):
        out += _noise(rng, seconds, center * 0.85, center * 1.18) * _wander(rng, seconds, 0.8) ** 1.5
    return out + 0.3 * _noise(rng, seconds, 60, 400)


SYNTHESIZERS: dict[str, Callable[[np.random.Generator, float], np.ndarray]] = {
    make.__name__: make
    for make in (alarm_beep, applause, bell, bird_chirp, cricket, engine, footsteps, frog, knocking, siren, telephone,
                 thunder, typing, water_drip, whistle, wind)
}  # fmt: skip


def synthesize(label: str, rng: np.random.Generator, seconds: float = 5.0) -> np.ndarray:
    """One random example of a class.

    Args:
        label: a key of ``SYNTHESIZERS``.
        rng: every random choice comes from it: the same generator state gives the same sound.
        seconds: length, at least 0.5.

    Returns:
        (n,) float32 at 48 kHz, peak between 0.2 and 0.9, over a faint noise floor such as recordings have.
    """
    if label not in SYNTHESIZERS:
        raise KeyError(f"{label!r} is not a synthesized class; there are {', '.join(SYNTHESIZERS)}")
    samples = SYNTHESIZERS[label](rng, seconds)
    samples = samples / (np.abs(samples).max() + 1e-9) * rng.uniform(0.2, 0.9)
    floor = 10 ** rng.uniform(-4.5, -2.6)
    return (samples + floor * _noise(rng, seconds, 30, 12_000)).astype(np.float32)
