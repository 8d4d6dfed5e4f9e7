"""The house stands on its floors: every import of the package runs down or along, and none in a circle."""

import ast
from pathlib import Path

import diffusion_link_hf

PACKAGE = Path(diffusion_link_hf.__file__).parent
# From the ground up. A module may import its own folder, and whatever stands below it; folders on one floor do not
# import each other.
FLOORS = (
    {"errors", "collector"},
    {"files", "tensors", "hub_access"},
    {"loading_options", "pickled_weights"},
    {"loading", "audio"},
    {"bridges", "models", "data", "metrics"},
    {"embeddings", "pipelines"},
    {"analysis", "training"},
    {"reports", "hub"},
    {"applications", "experiments"},
    {"commands"},
    {"cli"},
    {"__init__", "__main__"},
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def modules() -> dict[str, Path]:
    """Dotted name below the package → file."""
    return {
        ".".join(file.relative_to(PACKAGE).with_suffix("").parts): file
        for file in sorted(PACKAGE.rglob("*.py"))
        if "hub_configs" not in file.parts
    }


def imports(name: str, file: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a file imports, anywhere in it, relatively or by the package's name."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: -node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            targets = [(source, alias.name) for alias in node.names]
        else:
            continue
        for source, imported in targets:
            source = f"{source}.".removeprefix(f"{diffusion_link_hf.__name__}.").rstrip(".")
            # What is imported from a folder is one of its modules, or stands in its __init__.
            candidates = [f"{source}.{imported}".strip("."), source, f"{source}.__init__".strip(".")]
            found.update([candidate for candidate in candidates if candidate in known][:1])
    return found


def graph() -> dict[str, set[str]]:
    """Module → what it imports. The package's own ``__init__`` is no target: all that it holds is the version and the
    public names, each imported at its first use, and it imports no module itself (`hub/space/app.py` uses it as a
    user does)."""
    known = modules()
    return {name: imports(name, file, known) - {name, "__init__"} for name, file in known.items()}


def room(module: str) -> str:
    return module.split(".")[0]


def test_every_room_has_its_floor():
    assert {room(name) for name in modules()} <= set(FLOOR)


def test_the_graph_sees_relative_and_absolute_imports():
    edges = graph()
    assert "loading" in edges["bridges.base"]  # from ..loading import …
    assert any(name.startswith("commands.") for name in edges["cli"]) or "errors" in edges["cli"]


def test_no_import_runs_upward_or_between_rooms_of_one_floor():
    wrong = [
        f"{name} imports {target}"
        for name, targets in graph().items()
        for target in sorted(targets)
        if room(target) != room(name) and FLOOR[room(target)] >= FLOOR[room(name)]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_runs_in_a_circle():
    edges, done, path = graph(), set(), []

    def visit(name: str) -> None:
        assert name not in path, " → ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for target in sorted(edges[name]):
            visit(target)
        path.pop()
        done.add(name)

    for name in sorted(edges):
        visit(name)
