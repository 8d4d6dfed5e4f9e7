"""``diffusion-link push``: publishes a pipeline folder, and a Space that shows it, on the Hub."""

import argparse

from ..errors import HubAccessError, InputError

DESCRIPTION = """Publish what training or save_pretrained wrote, in one commit: model_index.json, the components, the
recipes, metrics.json and a model card. FOLDER/README.md, if there is one, is the card's fixed part; the rest of it
is made from what the folder says. Checkpoints and logs stay where they are. Refused are pickles, local paths, NaN and
infinity, and a folder that would not load strictly."""


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser("push", help="publish a pipeline on the Hub", description=DESCRIPTION)
    parser.add_argument("folder", metavar="FOLDER", help="pipeline folder, such as the output of a training")
    parser.add_argument(
        "--repo-id", required=True, metavar="OWNER/NAME", help="repository, created where it is missing"
    )
    parser.add_argument("--private", action="store_true", help="a new repository is private; a public one is refused")
    parser.add_argument("--revision", metavar="BRANCH", help="branch, created where it is missing (default: main)")
    parser.add_argument("--token", help="with the right to write (default: that of `hf auth login`)")
    parser.add_argument("--message", default="Upload with diffusion-link", help="of the commit")
    parser.add_argument(
        "--space",
        nargs="?",
        const="",
        metavar="OWNER/NAME",
        help="also push a Gradio app that captions with it (default name: the repository's and -demo)",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be uploaded; no network is used")
    parser.add_argument(
        "--recipe", action="append", default=[], metavar="FILE", help="of another stage, such as the link's; repeatable"
    )
    card = parser.add_argument_group("model card", "what the folder does not say, unless its README.md says it")
    card.add_argument("--license", help="such as apache-2.0 or llama2")
    card.add_argument("--dataset", action="append", default=[], help="Hub id or name of training data; repeatable")
    card.add_argument("--hardware", help="what it was trained on, in words")
    card.add_argument("--co2-grams", type=float, metavar="G", help="emissions of the training, CO2 equivalent")
    return parser


def run(args: argparse.Namespace) -> int:
    """Publishes, or shows what would be published; returns 0.

    Raises:
        DiffusionLinkError: see `hub.push`.
    """
    from ..hub.push import check_loads, prepare_space, prepare_upload, send

    contents, upload = prepare_upload(
        args.folder,
        args.repo_id,
        recipes=args.recipe,
        license=args.license,
        datasets=args.dataset,
        hardware=args.hardware,
        co2_grams=args.co2_grams,
    )
    uploads = [upload]
    if args.space is not None:
        if contents.index["_class_name"] != "AudioCaptionPipeline":
            raise InputError("--space", "was asked for a link alone", "Push a pipeline that captions, or leave it out")
        uploads.append(prepare_space(args.repo_id, args.space or None))
    if args.dry_run:
        for planned in uploads:
            _show(planned)
        try:
            check_loads(contents, local_files_only=True)
            print("loads strictly: yes")
        except HubAccessError as error:
            print(f"loads strictly: not known without a network ({error})")
        return 0
    check_loads(contents, token=args.token)
    for planned in uploads:
        revision = args.revision if planned is upload else None  # a Space runs its default branch
        url = send(planned, private=args.private, revision=revision, token=args.token, message=args.message)
        print(f"{planned.kind} {planned.repo_id}: {url}")
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
