"""Pictures: reproducible transparent SVG in mid-tones, and typed errors where a library is absent."""

import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch

from diffusion_link_hf.errors import InputError
from diffusion_link_hf.reports import figures
from diffusion_link_hf.reports.figures import (
    INK,
    LINES,
    SOURCE,
    TARGET,
    check_libraries,
    draw_heat_maps,
    draw_map,
    draw_timestep_curve,
    project,
)
from support.bridges import make_rows


def pairs(rows: int = 30):
    before = make_rows(rows, 1) + 2, make_rows(rows, 2) - 2
    return before, (before[1] + 0.2 * make_rows(rows, 3), before[1])


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("color", sorted({INK, SOURCE, TARGET, *LINES}))
def test_colors_read_on_white_and_on_dark_pages(color):
    """WCAG contrast of graphics, 3 : 1, against white and against a dark page (#0d1117)."""
    assert 1.05 / (luminance(color) + 0.05) >= 3
    assert (luminance(color) + 0.05) / (luminance("#0d1117") + 0.05) >= 3


def test_pca_is_the_singular_value_decomposition():
    rows = make_rows(40)
    plane = project(rows, "pca")
    unit = rows.double().numpy() / np.linalg.norm(rows.double().numpy(), axis=1, keepdims=True)
    centered = unit - unit.mean(0)
    left, sizes, _ = np.linalg.svd(centered, full_matrices=False)
    np.testing.assert_allclose(np.abs(plane), np.abs(left[:, :2] * sizes[:2]), atol=1e-9)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(project(rows[order], "pca"), plane[order.numpy()], atol=1e-9)


def test_pictures_are_transparent_and_reproducible(tmp_path):
    pytest.importorskip("matplotlib")
    before, after = pairs()
    for name in "ab":
        draw_map(tmp_path / f"map_{name}.svg", before, after, "ridge", "pca", names=("image", "text"))
        draw_heat_maps(tmp_path / f"heat_{name}.svg", before, after, "ridge")
    for kind in ("map", "heat"):
        text = (tmp_path / f"{kind}_a.svg").read_text()
        assert text == (tmp_path / f"{kind}_b.svg").read_text()
        ElementTree.fromstring(text)
        assert not re.search(r'id="patch_1">\s*<path[^>]*fill: #', text)  # the background
        assert "ridge" in text
        assert "black" not in text
        assert "fill: #000000" not in text
    text = (tmp_path / "map_a.svg").read_text()
    assert "bridged image" in text
    assert "(PCA)" in text
    assert SOURCE in text
    assert TARGET in text
    assert len(re.findall(r'id="line2d_', text)) >= 60  # every pair is joined, before and after


def document():
    def row(value):
        return {"figures": {"matched_audio": {"value": value, "low": value - 0.01, "high": value + 0.01}}}

    grid, methods = [], {"ridge": row(0.6)}
    for steps in (1, 5):
        for timestep in (100, 300, 500):
            point = {"noise_timestep": timestep, "num_inference_steps": steps, "add_noise": True}
            grid.append({"row": f"{timestep}/{steps}", "variant": "link", "method": "diffusion-link", **point})
            methods[grid[-1]["row"]] = row(0.7 - timestep / 2000)
    return {"names": ["audio", "text"], "grid": grid, "methods": methods}


def test_the_curve_names_lines_baselines_and_the_paper(tmp_path):
    pytest.importorskip("matplotlib")
    draw_timestep_curve(tmp_path / "curve.svg", document())
    text = (tmp_path / "curve.svg").read_text()
    for words in ("link, 1 steps", "link, 5 steps", "ridge", "paper, AudioCaps", "s*"):
        assert words in text


@pytest.mark.slow
def test_umap_keeps_islands_and_repeats():
    pytest.importorskip("umap")
    rows = torch.cat([make_rows(30, 1) + 3, make_rows(30, 2) - 3])
    plane = project(rows, "umap")
    np.testing.assert_array_equal(plane, project(rows, "umap"))
    first, second = plane[:30], plane[30:]
    apart = np.linalg.norm(first.mean(0) - second.mean(0))
    assert apart > 2 * max(first.std(), second.std())


@pytest.mark.parametrize(("library", "projection"), [("matplotlib", "pca"), ("umap", "umap")])
def test_absent_libraries_are_named(library, projection, monkeypatch):
    if library == "umap":
        pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=library) as caught:
        check_libraries(projection)
    assert "diffusion-link-hf[analysis]" in caught.value.remedy


def test_wrong_input_is_refused(tmp_path):
    with pytest.raises(InputError, match="tsne"):
        project(make_rows(5), "tsne")
    with pytest.raises(InputError, match="four"):
        project(make_rows(3), "pca")
    assert figures.PROJECTIONS == ("umap", "pca")
