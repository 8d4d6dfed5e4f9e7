"""Publishes a pipeline folder: what is uploaded, checked and in one commit, and a Space that shows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import HubAccessError, InputError
from ..hub_access import LoadPath, hub_errors
from ..pipelines.audio_caption import AudioCaptionPipeline
from ..pipelines.embedding_bridge import DiffusionLinkPipeline
from .card import PipelineCard
from .contents import CARD, COMPONENTS, METRICS, RECIPES, Contents, collect
from .results import RESULTS
from .space import space_files

_CLASSES = {kind.__name__: kind for kind in (AudioCaptionPipeline, DiffusionLinkPipeline)}
# Of `hub_errors`: problem and remedy where the repository cannot be made or found, and where the connection failed.
_MISSING = (
    "cannot be written",
    "Log in (hf auth login) or pass a token (token=TOKEN), with the right to write to its owner",
)
_FAILED = ("cannot be pushed", "The commit may or may not have arrived. It is safe to push again")


@dataclass(frozen=True)
class Upload:
    """One commit to one repository.

    Attributes:
        repo_id: of the repository.
        files: path in the repository → local file or content.
        kind: "model" or "space".
        left_out: names in the folder that are not uploaded.
    """

    repo_id: str
    files: dict[str, Path | bytes]
    kind: str = "model"
    left_out: tuple[str, ...] = ()

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, by path."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in sorted(self.files.items())
        }


@dataclass(frozen=True)
class Push:
    """What `push` did, or with ``dry_run`` would do.

    Attributes:
        uploads: the pipeline's, and the Space's where there is one.
        urls: address of each commit; empty after a dry run.
        not_checked: after a dry run, why it could not be seen without a network whether the pipeline loads; or None.
    """

    uploads: tuple[Upload, ...]
    urls: tuple[str, ...] = ()
    not_checked: str | None = None


def push(
    folder: LoadPath,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    message: str = "Upload with diffusion-link",
    space: str | bool = False,
    recipes: Sequence[LoadPath] = (),
    license: str | None = None,
    datasets: Sequence[str] = (),
    hardware: str | None = None,
    co2_grams: float | None = None,
    dry_run: bool = False,
) -> Push:
    """Publish a pipeline folder on the Hub in one commit: its components, recipes, metrics.json and a model card.

    The folder's README.md, if there is one, is the fixed part of the card. Recipes and data sets that the training
    recorded in the folder are found, and the figures on test sets that `evaluate_pipeline` left there.

    Args:
        folder: what training or `save_pretrained` wrote; nothing in it is changed.
        repo_id: ``owner/name``, created where it is missing.
        private: create the repository as private; one that exists and is public is refused.
        revision: a branch, created where it is missing; the default branch if None.
        token: with the right to write, by default the one that is logged in.
        message: of the commit.
        space: also push a Gradio app that captions with the pipeline: its ``owner/name``, or True for the repository's
            name and ``-demo``.
        recipes: files of other stages; each replaces what is found for its stage.
        license: identifier of the Hub, such as "apache-2.0".
        datasets: Hub ids or names of the training data, instead of those that are found.
        hardware: what it was trained on, in words.
        co2_grams: emissions of the training, in grams of CO2 equivalent.
        dry_run: check everything and send nothing; no network is used.

    Raises:
        ModelFolderError: no pipeline folder; checkpoints, pickles, local paths, NaN or infinity in it; figures of
            other weights; or a pipeline that does not load, strictly.
        InputError: an id of another form, metadata that the Hub would refuse, or a Space for a link alone.
        HubAccessError: the Hub, or a base model, cannot be reached, or refuses.

    Examples:
        >>> from diffusion_link_hf import push
        >>> from diffusion_link_hf.loading import default_pipeline_folder
        >>> planned = push(default_pipeline_folder(), "me/tiny", license="apache-2.0", dry_run=True)
        >>> sorted(planned.uploads[0].files)[0], planned.urls, planned.not_checked
        ('ATTRIBUTION.txt', (), None)
    """
    about = {"license": license, "datasets": datasets, "hardware": hardware, "co2_grams": co2_grams}
    contents, upload = prepare_upload(folder, repo_id, recipes=recipes, **about)
    uploads = [upload]
    if space is not False:
        if contents.index["_class_name"] != AudioCaptionPipeline.__name__:
            raise InputError("space", "was asked for a link alone", "Push a pipeline that captions, or leave it out")
        uploads.append(prepare_space(repo_id, None if space is True else space))
    if dry_run:
        try:
            check_loads(contents, local_files_only=True)
        except HubAccessError as error:
            return Push(tuple(uploads), not_checked=str(error))
        return Push(tuple(uploads))
    check_loads(contents, token=token)
    urls = [
        # A Space runs its default branch.
        send(each, private=private, revision=revision if each is upload else None, token=token, message=message)
        for each in uploads
    ]
    return Push(tuple(uploads), tuple(urls))


def prepare_upload(
    folder: LoadPath,
    repo_id: str,
    *,
    recipes: Sequence[LoadPath] = (),
    license: str | None = None,
    datasets: Sequence[str] = (),
    hardware: str | None = None,
    co2_grams: float | None = None,
) -> tuple[Contents, Upload]:
    """What publishing a folder would upload. Nothing is sent, and nothing in the folder is changed.

    Args:
        folder: what training or `save_pretrained` wrote; its README.md, if any, is the card's fixed part.
        repo_id: "owner/name".
        recipes: of other stages, such as the link's.
        license, datasets, hardware, co2_grams: fields of `PipelineCard`.

    Raises:
        ModelFolderError: see `contents.collect`.
        InputError: an id of another form, or metadata that the Hub would refuse.
    """
    check_id(repo_id)
    contents = collect(folder, recipes)
    by_hand = {"license": license, "datasets": list(datasets), "hardware": hardware, "co2_grams": co2_grams}
    card = PipelineCard.of(contents, repo_id, **by_hand).render()
    return contents, Upload(repo_id, {**contents.files, CARD: card.encode()}, left_out=contents.left_out)


def check_loads(contents: Contents, token: str | bool | None = None, local_files_only: bool = False) -> None:
    """Loads the pipeline as a user would, base models included, and drops it.

    Raises:
        ModelFolderError: it does not load, strictly.
        HubAccessError: a base model that it references cannot be had.
    """
    # bfloat16 has the range of float32, so what is finite stays so, in half of the memory.
    _CLASSES[contents.index["_class_name"]].from_pretrained(
        contents.folder, token=token, local_files_only=local_files_only, dtype=torch.bfloat16
    )


def prepare_space(repo_id: str, space_id: str | None = None) -> Upload:
    """A Space that captions uploads with the pipeline of ``repo_id``; by default named after it.

    Raises:
        InputError: an id of another form.
    """
    space_id = space_id or f"{repo_id}-demo"
    check_id(space_id)
    return Upload(space_id, {name: text.encode() for name, text in space_files(repo_id).items()}, kind="space")


def send(
    upload: Upload,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    message: str = "Upload with diffusion-link",
) -> str:
    """Create the repository where it is missing, and upload everything in one commit.

    Files of an earlier push that are no part of this one are deleted in the same commit: a stale adapter would be put
    onto a decoder that has none.

    Args:
        private: of a new repository; one that is public stays so and is refused.
        revision: a branch, made from the default one where it is missing.

    Returns:
        Address of the commit.

    Raises:
        HubAccessError: the Hub cannot be reached, refuses, or the branch moved meanwhile. The repository then holds
            either the whole commit or nothing of it.
    """
    api = HfApi(token=token)
    with hub_errors(upload.repo_id, _MISSING, _FAILED):
        sdk = {"space_sdk": "gradio"} if upload.kind == "space" else {}
        api.create_repo(upload.repo_id, repo_type=upload.kind, private=private or None, exist_ok=True, **sdk)
        if private and not api.repo_info(upload.repo_id, repo_type=upload.kind).private:
            raise HubAccessError(
                upload.repo_id, "exists and is public", "Make it private on its settings page, or use another name"
            )
        if revision is not None:
            api.create_branch(upload.repo_id, repo_type=upload.kind, branch=revision, exist_ok=True)
        before = api.repo_info(upload.repo_id, repo_type=upload.kind, revision=revision)
        stale = [file.rfilename for file in before.siblings or () if _is_stale(file.rfilename, upload)]
        commit = api.create_commit(
            upload.repo_id,
            [
                *(CommitOperationDelete(name) for name in stale),
                *(CommitOperationAdd(name, content) for name, content in sorted(upload.files.items())),
            ],
            commit_message=message,
            repo_type=upload.kind,
            revision=revision,
            parent_commit=before.sha,
        )
    return commit.commit_url


def _is_stale(name: str, upload: Upload) -> bool:
    ours = name.split("/")[0] in (*COMPONENTS, RECIPES) or name in (METRICS, RESULTS)
    return upload.kind == "model" and ours and name not in upload.files


def check_id(repo_id: str, name: str = "repo_id") -> None:
    """Raises InputError, about the argument ``name``, for what is no ``owner/name``."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(name, f"is {repo_id!r} ({error})", "Write owner/name") from error
    if "/" not in repo_id:
        raise InputError(name, f"is {repo_id!r}, without an owner", "Write owner/name")
