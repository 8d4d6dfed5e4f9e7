"""The grid of a sweep, what its points measure, and its report."""

import json

import pytest

from diffusion_link_hf.analysis.evaluation import evaluate_bridges
from diffusion_link_hf.errors import InputError
from diffusion_link_hf.reports.gap import describe_data
from diffusion_link_hf.reports.sweep import SweepPoint, grid, sweep_bridges, sweep_document, sweep_markdown
from support.analysis import QUICK, make_fitted, make_split


def test_grid_holds_every_combination_that_exists():
    points = grid(["a", "b", "a"], [100, 3, 100], [5, 1], [True, False])
    expected = {
        SweepPoint(method, timestep, steps, noised)
        for method in "ab"
        for timestep, steps in ((3, 1), (100, 1), (100, 5))
        for noised in (True, False)
    }
    assert set(points) == expected
    assert len(points) == len(expected)
    assert len({point.name for point in points}) == len(points)


@pytest.mark.parametrize(
    ("timesteps", "steps", "words"),
    [([0], [1], "has 0"), ([1001], [1], "1001"), ([5], [0], "has 0"), ([4], [5], "more than any")],
)
def test_wrong_grids_are_refused(timesteps, steps, words):
    with pytest.raises(InputError, match=words):
        grid(["a"], timesteps, steps, [True])


def test_points_are_measured_with_their_own_settings():
    train, held_out = make_split()
    bridges = make_fitted(train)
    link = [one for one in bridges if one.method == "diffusion-link"]
    points = grid(["diffusion-link"], [100, 500], [1, 5], [True])
    swept = sweep_bridges(points, link)
    assert len(swept) == len(points) * 2
    results = evaluate_bridges([*bridges[:3], *swept], held_out, train, QUICK)
    document = sweep_document(points, results, describe_data("small", train, held_out, "abc"), {"steps": 3}, QUICK)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert list(document["baselines"]) == ["identity", "centering", "ridge"]
    direct = [
        result.estimate("matched_audio").value
        for result in evaluate_bridges(
            [
                type(one)(
                    f"{timestep} {steps}",
                    one.bridge,
                    one.seed,
                    options={"noise_timestep": timestep, "num_inference_steps": steps, "add_noise": True},
                )
                for timestep, steps in ((100, 1), (500, 1), (100, 5), (500, 5))
                for one in link
            ],
            held_out,
            train,
            QUICK,
        )
    ]
    found = [point["figures"]["matched_audio"]["value"] for point in document["points"]]
    assert found == pytest.approx(direct, abs=1e-6)
    assert len(set(found)) == 4
    markdown = sweep_markdown(document, ["curve.svg"])
    assert "| diffusion-link | 100 | 5 | yes |" in markdown
    assert markdown.count("0.688") == 1
    assert "![curve](curve.svg)" in markdown
    with pytest.raises(InputError, match=r"no s\*"):
        sweep_bridges(points, bridges[:1])
