"""``diffusion-link push``: publishes a pipeline folder, and a Space that shows it, on the Hub."""

import argparse

DESCRIPTION = """Publish what training or save_pretrained wrote, in one commit: model_index.json, the components, the
recipes, metrics.json and a model card. If the folder has a README.md, it becomes the first part of the card; the rest
is generated. Recipes and data sets that the training recorded are found. Checkpoints and logs are not uploaded. A
folder with pickles, local paths, NaN or infinity is refused, and so is one that does not load."""


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser("push", help="publish a pipeline on the Hub", description=DESCRIPTION)
    parser.add_argument("folder", metavar="FOLDER", help="pipeline folder, such as the output of a training")
    parser.add_argument(
        "--repo-id", required=True, metavar="OWNER/NAME", help="repository; it is created if it does not exist"
    )
    parser.add_argument(
        "--private", action="store_true", help="create the repository as private; fail if it exists and is public"
    )
    parser.add_argument(
        "--revision", metavar="BRANCH", help="branch; it is created if it does not exist (default: main)"
    )
    parser.add_argument(
        "--token", help="access token with write permission (default: the one stored by `hf auth login`)"
    )
    parser.add_argument("--message", default="Upload with diffusion-link", help="commit message")
    parser.add_argument(
        "--space",
        nargs="?",
        const=True,
        default=False,
        metavar="OWNER/NAME",
        help="also push a Gradio app that captions with this pipeline (default name: the repository's name plus -demo)",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be uploaded; uses no network")
    parser.add_argument(
        "--recipe",
        action="append",
        default=[],
        metavar="FILE",
        help="recipe of another stage, in place of the one found beside the link (repeatable)",
    )
    card = parser.add_argument_group("model card", "facts that neither the folder nor its README.md states")
    card.add_argument("--license", help="license, such as apache-2.0 or llama2")
    card.add_argument(
        "--dataset",
        action="append",
        default=[],
        help="Hub id or name of the training data (default: the Hub data sets that were embedded; repeatable)",
    )
    card.add_argument("--hardware", help="hardware that you trained on, in your own words")
    card.add_argument(
        "--co2-grams", type=float, metavar="G", help="emissions of the training, in grams of CO2 equivalent"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Publishes, or shows what would be published; returns 0.

    Raises:
        DiffusionLinkError: see `hub.push.push`.
    """
    from ..hub.push import push

    done = push(
        args.folder,
        args.repo_id,
        private=args.private,
        revision=args.revision,
        token=args.token,
        message=args.message,
        space=args.space,
        recipes=args.recipe,
        license=args.license,
        datasets=args.dataset,
        hardware=args.hardware,
        co2_grams=args.co2_grams,
        dry_run=args.dry_run,
    )
    if args.dry_run:
        for upload in done.uploads:
            _show(upload)
        known = "yes" if done.not_checked is None else f"not known without a network ({done.not_checked})"
        print(f"loads strictly: {known}")
    for upload, url in zip(done.uploads, done.urls, strict=False):
        print(f"{upload.kind} {upload.repo_id}: {url}")
    return 0


def _show(upload) -> None:
    sizes = upload.sizes()
    print(f"{upload.kind} {upload.repo_id}, one commit of {len(sizes)} files, {sum(sizes.values()):,} bytes:")
    for name, size in sizes.items():
        print(f"{size:>16,}  {name}")
    for name in upload.left_out:
        print(f"{'not uploaded':>16}  {name}")
    content = upload.files["README.md"].decode()
    print("\n".join(["--- README.md", content.rstrip(), "--- end of README.md"]))
