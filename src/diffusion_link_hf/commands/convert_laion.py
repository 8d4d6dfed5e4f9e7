"""``diffusion-link convert-laion``: a LAION-CLAP checkpoint to a folder that every command here takes as CLAP."""

import argparse

DESCRIPTION = """Convert a checkpoint that LAION published, such as music_audioset_epoch_15_esc_90.14.pt (HTSAT-tiny or
-base, fused or unfused), to safetensors. No code in the checkpoint is run. Tensors that are not used are listed, with
the reason. The tokenizer is RoBERTa's."""


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "convert-laion", help="convert a LAION-CLAP checkpoint to safetensors", description=DESCRIPTION
    )
    parser.add_argument("checkpoint", metavar="FILE.pt")
    parser.add_argument("output", metavar="FOLDER", help="new folder; load it with ClapEncoder.from_pretrained(FOLDER)")
    parser.add_argument(
        "--tokenizer",
        default="FacebookAI/roberta-base",
        metavar="MODEL",
        help='folder or Hub id (default: FacebookAI/roberta-base); "none" for a CLAP that only embeds audio',
    )
    parser.add_argument("--token", help="access token, if the tokenizer is in a private repository")
    return parser


def run(args: argparse.Namespace) -> int:
    """Converts; returns 0.

    Raises:
        DiffusionLinkError: see `models.laion.convert_laion`.
    """
    from ..models.laion import convert_laion

    tokenizer = None if args.tokenizer == "none" else args.tokenizer
    conversion = convert_laion(args.checkpoint, args.output, tokenizer, token=args.token)
    fused = "fused" if conversion.fused else "unfused"
    print(f"{args.output}: {conversion.architecture}, {fused}; {conversion.used} tensors used")
    for reason in sorted(set(conversion.dropped.values())):
        names = [name for name, why in conversion.dropped.items() if why == reason]
        print(f"left out, {reason}: {len(names)} ({names[0]} …)")
    return 0
