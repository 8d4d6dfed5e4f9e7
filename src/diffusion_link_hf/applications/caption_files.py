"""Caption files and folders of any size into a file: streamed, resumable, shared by processes."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..audio import stream_audio
from ..audio.sources import iter_sources
from ..errors import AudioError, InputError
from ..files import write_whole
from ..pipelines.audio_caption import AudioCaptionPipeline
from ..pipelines.listening import Recording
from ..pipelines.output import CaptionSegment
from .captioned import FORMATS, CaptionedFile, merge_segments, write_captions
from .heard_files import NamedRecordings
from .journal import Journal, state_of


@dataclass(frozen=True)
class CaptionSummary:
    """What a run did.

    Attributes:
        files: recordings that were named or found.
        captioned: those with captions.
        failed: those without, whose errors are in the output.
        resumed: those that an earlier run had finished.
        seconds: of sound, in what this run captioned.
        output: what was written.
    """

    files: int
    captioned: int
    failed: int
    resumed: int
    seconds: float
    output: Path


def iter_captions(
    pipeline: AudioCaptionPipeline | None,
    paths: str | Path | Iterable[str | Path],
    *,
    merge: bool = False,
    skip: Callable[[str], bool] = lambda name: False,
    **options: Any,
) -> Iterator[CaptionedFile]:
    """Captions of files, folders, web addresses and ``-`` (standard input), one recording after the other.

    Args:
        pipeline: the captioner; None where nothing can be read, as only the errors are wanted then.
        paths: as `iter_sources`.
        merge: whether neighboring windows with the same caption become one segment.
        skip: whether to leave a recording of this name out; called for each, in order.
        options: as `AudioCaptionPipeline.stream_all`: ``batch_size``, ``hop_seconds``, ``num_beams`` ….

    Yields:
        A `CaptionedFile` for each, with its segments or its error, as soon as it is done.

    Raises:
        InputError: an option out of range.

    Examples:
        >>> import tempfile, pathlib, numpy, soundfile
        >>> from diffusion_link_hf import AudioCaptionPipeline
        >>> from diffusion_link_hf.applications.caption_files import iter_captions
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> soundfile.write(folder / "a.wav", numpy.random.default_rng(0).normal(0, 0.05, 48_000), 48_000)
        >>> pipe = AudioCaptionPipeline.from_pretrained("tiny")
        >>> [pathlib.Path(one.file).name for one in iter_captions(pipe, folder)]
        ['a.wav']
    """
    recordings = NamedRecordings(paths, skip)
    if pipeline is None:
        yield from (CaptionedFile(one.name, error=str(_reading_error(one))) for one in recordings)
        return
    segments: list[CaptionSegment] = []
    for item, found in pipeline.stream_all(recordings, **options):
        if isinstance(found, CaptionSegment):
            segments.append(found)
            continue
        name = recordings.take(item)
        if found is not None:
            yield CaptionedFile(name, error=str(found))
        else:
            yield CaptionedFile(name, tuple(merge_segments(segments) if merge else segments))
        segments = []


def _reading_error(recording: Recording) -> AudioError:
    if isinstance(recording.source, AudioError):
        return recording.source
    try:
        next(stream_audio(*recording))
    except AudioError as error:
        return error
    raise InputError("pipeline", "is None", "Pass one: there is sound to caption")


def caption_files(
    pipeline: AudioCaptionPipeline,
    paths: str | Path | Iterable[str | Path],
    output: str | Path,
    *,
    format: str | None = None,
    model: str = "",
    merge: bool = False,
    progress: Callable[[CaptionedFile], object] = lambda captioned: None,
    **options: Any,
) -> CaptionSummary | None:
    """Caption files and folders into one file, or into a folder of subtitles.

    Finished recordings are noted beside the output. A run that was killed goes on behind the last one, and the result
    is that of an undisturbed run. The output appears when it is whole. Under ``accelerate launch`` the processes share
    the recordings, and the first one writes the output.

    Args:
        pipeline, paths, merge: as `iter_captions`. Standard input cannot be shared or resumed.
        output: a file, whose extension says the format; or, for ``srt``, ``vtt`` and ``txt``, a folder, which gets a
            file for each recording, named as that is.
        format: one of ``csv``, ``jsonl``, ``parquet``, ``srt``, ``vtt``, ``txt`` where the extension does not say it.
        model: name of the pipeline, which a resumed run has to have too.
        progress: called with each `CaptionedFile` as it is done.
        options: as `iter_captions`.

    Returns:
        Counts; None in other processes than the first.

    Raises:
        InputError: no known format; an option out of range.
        DataError: the output cannot be written; or an unfinished run with another model or options is there.

    Examples:
        >>> import tempfile, pathlib, numpy, soundfile
        >>> from diffusion_link_hf import AudioCaptionPipeline, caption_files
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> soundfile.write(folder / "a.wav", numpy.random.default_rng(0).normal(0, 0.05, 48_000), 48_000)
        >>> pipe = AudioCaptionPipeline.from_pretrained("tiny")
        >>> summary = caption_files(pipe, folder, folder / "captions.csv")
        >>> summary.captioned, (folder / "captions.csv").read_text().splitlines()[0]
        (1, 'file,start,end,caption,score,error')
    """
    from accelerate import PartialState

    output, processes = Path(output), PartialState()
    folder = output.is_dir() or (str(format) in ("srt", "vtt", "txt") and not output.suffix)
    format = format or output.suffix.removeprefix(".")
    if format not in FORMATS or (folder and format not in ("srt", "vtt", "txt")):
        problem = f"does not say a format ({format or 'no extension'})" if not folder else "is a folder"
        raise InputError(
            output, problem, f"Name a file that ends in .{', .'.join(FORMATS)}, or a folder for srt or vtt"
        )
    identity = {"model": model, "merge": merge, "options": {key: repr(options[key]) for key in sorted(options)}}
    journal = Journal(output, identity, processes.process_index)
    done = {"resumed": 0, "seconds": 0.0}

    numbers = itertools.count()

    def skip(name: str) -> bool:
        if next(numbers) % processes.num_processes != processes.process_index:
            return True
        finished = journal.has(name, state_of(name))
        done["resumed"] += finished
        return finished

    for captioned in iter_captions(pipeline, paths, merge=merge, skip=skip, **options):
        journal.add(captioned, state_of(captioned.file))
        done["seconds"] += captioned.segments[-1].end if captioned.segments else 0.0
        progress(captioned)
    processes.wait_for_everyone()
    if not processes.is_main_process:
        journal.close()
        return None
    journal.refresh()
    counts = {"files": 0, "failed": 0}

    def finished() -> Iterator[CaptionedFile]:
        for captioned in journal.read(name for name, _ in iter_sources(paths)):
            counts["files"] += 1
            counts["failed"] += captioned.error is not None
            yield captioned

    if folder:
        _write_folder(finished(), output, format)
    else:
        write_whole(output, lambda file: write_captions(finished(), file, format))
    journal.remove()
    return CaptionSummary(
        files=counts["files"],
        captioned=counts["files"] - counts["failed"],
        failed=counts["failed"],
        resumed=done["resumed"],
        seconds=done["seconds"],
        output=output,
    )


def _write_folder(captioned: Iterable[CaptionedFile], folder: Path, format: str) -> None:
    """A file for each recording, below the folder as the recording is below the current one or the root."""
    for one in captioned:
        if one.error is not None:
            continue
        path = Path(one.file)
        parts = [part for part in path.parts if part not in ("..", path.anchor)]
        target = folder.joinpath(*parts).with_name(f"{path.name}.{format}")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, lambda file, one=one: write_captions([one], file, format))
