"""All metrics by name, what each needs, and `score` and `score_each`, which compute several with shared work."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from os import PathLike

from ..errors import DiffusionLinkError, InputError
from . import bleu, cider_d, fense, meteor, rouge_l, sbert, spice, spider, tokenization, vocabulary
from .captions import Captions, CaptionScores
from .errors import MetricDependencyError

DEFAULT_METRICS = ("bleu", "rouge_l", "meteor", "cider_d")
# What tables and model cards call the scores.
SCORE_NAMES = {
    **{f"bleu_{n}": f"BLEU-{n}" for n in range(1, 5)},
    "rouge_l": "ROUGE-L",
    "meteor": "METEOR",
    "cider_d": "CIDEr-D",
    "spice": "SPICE",
    "spider": "SPIDEr",
    "sbert_similarity": "Sentence-BERT similarity",
    "fluency_error": "Rate of fluency errors",
    "fense": "FENSE",
    "vocabulary_size": "Vocabulary size",
    "vocabulary_ratio": "Vocabulary size over the references'",
    "distinct_captions": "Share of distinct captions",
    "words_per_caption": "Words per caption",
}


@dataclass(frozen=True)
class ScoreOptions:
    """Models and devices of the metrics that use a network.

    Attributes:
        sbert_model: folder or Hub id of a sentence-transformers model.
        fluency_model: folder or Hub id of a `FluencyErrorDetector`; None takes the one that was fetched.
        device: "cpu", "cuda", "cuda:1" ….
        batch_size: captions computed at once.
    """

    sbert_model: str | PathLike = sbert.DEFAULT_SBERT
    fluency_model: str | PathLike | None = None
    device: str = "cpu"
    batch_size: int = 32

    def __post_init__(self):
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise InputError("batch_size", f"is {self.batch_size!r}", "Give a positive number")
        for name, value in (("sbert_model", self.sbert_model), ("fluency_model", self.fluency_model)):
            empty_allowed = name == "fluency_model" and value is None
            if not empty_allowed and (not isinstance(value, (str, PathLike)) or not str(value)):
                raise InputError(name, f"is {value!r}", "Name a folder or a Hub id")


Parts = Mapping[str, CaptionScores]


@dataclass(frozen=True)
class Metric:
    """A family of scores that are computed together.

    Attributes:
        scores: names of its corpus scores.
        compute: the computation, from the captions, the results of ``parts``, and the options.
        check: raises MetricDependencyError if something is not installed, before any work is done.
        description: one line, with the range.
        citation: the paper.
        parts: families that it is made of.
        own_process: whether a program outside of Python does the work, so that others can be computed meanwhile.
    """

    scores: tuple[str, ...]
    compute: Callable[[Captions, Parts, ScoreOptions], CaptionScores]
    check: Callable[[ScoreOptions], None]
    description: str
    citation: str
    parts: tuple[str, ...] = field(default=())
    own_process: bool = False


def _tokenizer(options: ScoreOptions) -> None:
    tokenization.check_tokenizer()


METRICS: dict[str, Metric] = {
    "bleu": Metric(
        bleu.NAMES,
        lambda captions, parts, options: bleu.bleu(captions),
        _tokenizer,
        "BLEU-1 … BLEU-4, in [0, 1]; n-gram precision with a brevity penalty",
        "Papineni et al., 2002, https://aclanthology.org/P02-1040",
    ),
    "rouge_l": Metric(
        ("rouge_l",),
        lambda captions, parts, options: rouge_l.rouge_l(captions),
        _tokenizer,
        "ROUGE-L, in [0, 1]; F-measure of the longest common subsequence",
        "Lin, 2004, https://aclanthology.org/W04-1013",
    ),
    "meteor": Metric(
        ("meteor",),
        lambda captions, parts, options: meteor.meteor(captions),
        lambda options: (_tokenizer(options), meteor.check_meteor()),
        "METEOR 1.5, in [0, 1]; aligned words, stems, synonyms and paraphrases",
        "Denkowski and Lavie, 2014, https://aclanthology.org/W14-3348",
        own_process=True,
    ),
    "cider_d": Metric(
        ("cider_d",),
        lambda captions, parts, options: cider_d.cider_d(captions),
        _tokenizer,
        "CIDEr-D, in [0, 10]; n-gram similarity weighted by inverse document frequency",
        "Vedantam et al., 2015, https://arxiv.org/abs/1411.5726",
    ),
    "spice": Metric(
        ("spice",),
        lambda captions, parts, options: spice.spice(captions),
        lambda options: (_tokenizer(options), spice.check_spice()),
        "SPICE, in [0, 1]; F-score of the tuples of scene graphs",
        "Anderson et al., 2016, https://arxiv.org/abs/1607.08822",
        own_process=True,
    ),
    "spider": Metric(
        ("spider",),
        lambda captions, parts, options: spider.spider(parts["cider_d"], parts["spice"]),
        lambda options: None,
        "SPIDEr, in [0, 5.5]; mean of CIDEr-D and SPICE",
        "Liu et al., 2017, https://arxiv.org/abs/1612.00370",
        parts=("cider_d", "spice"),
    ),
    "sbert_similarity": Metric(
        ("sbert_similarity",),
        lambda captions, parts, options: sbert.sbert_similarity(
            captions, options.sbert_model, options.device, options.batch_size
        ),
        lambda options: sbert.check_sentence_transformers(),
        "SBERT similarity, in [-1, 1]; cosine of sentence embeddings",
        "Reimers and Gurevych, 2019, https://arxiv.org/abs/1908.10084",
    ),
    "fluency_error": Metric(
        ("fluency_error",),
        lambda captions, parts, options: fense.fluency_error(
            captions, options.fluency_model, options.device, options.batch_size
        ),
        lambda options: fense.check_fense(options.fluency_model),
        "Rate of captions with a fluency error, in [0, 1]; lower is better",
        "Zhou et al., 2022, https://arxiv.org/abs/2110.04684",
    ),
    "fense": Metric(
        ("fense",),
        lambda captions, parts, options: fense.fense(parts["sbert_similarity"], parts["fluency_error"]),
        lambda options: None,
        "FENSE, in [-1, 1]; SBERT similarity, cut where a caption has a fluency error",
        "Zhou et al., 2022, https://arxiv.org/abs/2110.04684",
        parts=("sbert_similarity", "fluency_error"),
    ),
    "vocabulary": Metric(
        vocabulary.NAMES,
        lambda captions, parts, options: vocabulary.vocabulary(captions),
        _tokenizer,
        "Vocabulary: number of words, ratio to the references', distinct captions, words per caption",
        "",
    ),
}


def score_names(metrics: Sequence[str]) -> dict[str, str]:
    """The scores that ``metrics`` ask for, each with its family; a family's name asks for all of its scores.

    Raises:
        InputError: none, or an unknown name.
    """
    if isinstance(metrics, str) or not metrics:
        raise InputError("metrics", f"are {metrics!r}", f"Give a list of {', '.join(METRICS)}")
    family_of = {score: family for family, metric in METRICS.items() for score in metric.scores}
    wanted = {}
    for name in metrics:
        if not isinstance(name, str):
            raise InputError("metrics", f"{name!r} is not a name", f"Choose from {', '.join(METRICS)}")
        if name in METRICS:
            wanted.update(dict.fromkeys(METRICS[name].scores, name))
        elif name in family_of:
            wanted[name] = family_of[name]
        else:
            raise InputError("metrics", f"there is no {name!r}", f"Choose from {', '.join([*METRICS, *bleu.NAMES])}")
    return wanted


def score(
    candidates: Sequence[str] | Captions,
    references: Sequence[Sequence[str]] | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    **options,
) -> CaptionScores:
    """Several metrics of the same captions; tokenization and shared parts are computed once.

    Args:
        candidates: N strings, or `Captions`, which hold the references as well.
        references: N lists of one or more strings.
        metrics: names from `METRICS`, or of single scores such as "bleu_4".
        options: fields of `ScoreOptions`.

    Returns:
        The scores asked for, in that order.

    Raises:
        InputError: malformed captions (the row is named), an unknown metric or option.
        MetricDependencyError: something is not installed; raised before any metric is computed.
        MetricToolError, HubAccessError, ModelFolderError: see the metrics.

    Example (needs Java and the extra ``metrics``):
        >>> from diffusion_link_hf import score
        >>> scores = score(["a dog barks", "rain falls"], [["a dog barks"], ["it rains"]], metrics=["rouge_l"])
        >>> round(scores.corpus["rouge_l"], 3), scores.per_caption["rouge_l"].tolist()
        (0.5, [1.0, 0.0])
    """
    wanted, settings = score_names(metrics), _settings(options)
    captions = _captions(candidates, references)
    needed = _with_parts(dict.fromkeys(wanted.values()))
    for family in needed:
        METRICS[family].check(settings)
    if "cider_d" in needed:
        cider_d.check_rows(captions)
    return _gathered(wanted, _compute(needed, captions, settings))


def score_each(
    captions: Captions, metrics: Sequence[str] = tuple(METRICS), **options
) -> tuple[CaptionScores, dict[str, DiffusionLinkError]]:
    """As `score`, but a metric that fails takes nothing with it except what is made of it.

    Args:
        captions: candidates and references.
        metrics, options: as `score`; all metrics by default.

    Returns:
        The scores that could be had, and for each family that could not, why.

    Raises:
        InputError: an unknown metric or option.
    """
    wanted, settings = score_names(metrics), _settings(options)
    failed: dict[str, DiffusionLinkError] = dict(missing_dependencies(metrics, **options))
    needed = [family for family in _with_parts(dict.fromkeys(wanted.values())) if family not in failed]
    done = _compute(needed, captions, settings, failed)
    scores = _gathered({score: family for score, family in wanted.items() if family in done}, done)
    return scores, {family: failed[family] for family in dict.fromkeys(wanted.values()) if family in failed}


def missing_dependencies(metrics: Sequence[str] = tuple(METRICS), **options) -> dict[str, MetricDependencyError]:
    """What this machine lacks, by family: Java, a package, a jar or a model. Nothing is computed.

    Args:
        metrics, options: as `score`; all metrics by default.

    Raises:
        InputError: an unknown metric or option.
    """
    settings, missing = _settings(options), {}
    for family in dict.fromkeys(score_names(metrics).values()):
        try:
            for part in (*METRICS[family].parts, family):
                METRICS[part].check(settings)
        except MetricDependencyError as error:
            missing[family] = error
    return missing


def _settings(options: Mapping[str, object]) -> ScoreOptions:
    try:
        return ScoreOptions(**options)
    except TypeError as error:
        raise InputError("options", str(error), f"Known are {', '.join(ScoreOptions.__dataclass_fields__)}") from error


def _gathered(wanted: Mapping[str, str], done: Mapping[str, CaptionScores]) -> CaptionScores:
    """The scores of ``wanted`` (score → family) in its order, with the notes of all that was computed."""
    per_caption = {
        score: done[family].per_caption[score] for score, family in wanted.items() if score in done[family].per_caption
    }
    notes = dict.fromkeys(note for scores in done.values() for note in scores.notes)
    return CaptionScores(
        {score: done[family].corpus[score] for score, family in wanted.items()}, per_caption, tuple(notes)
    )


def _compute(
    families: Sequence[str],
    captions: Captions,
    settings: ScoreOptions,
    failed: dict[str, DiffusionLinkError] | None = None,
) -> dict[str, CaptionScores]:
    """The results of ``families``, which holds parts before what is made of them.

    Args:
        failed: receives the errors, by family; without it the first one is raised.
    """
    outside = [family for family in families if METRICS[family].own_process]
    done: dict[str, CaptionScores] = {}
    with ThreadPoolExecutor(max(len(outside), 1)) as pool:
        if outside:
            with nullcontext() if failed is None else suppress(DiffusionLinkError):  # which each of them meets again
                captions.tokens  # noqa: B018 - once, before several threads ask for them
        running = {family: pool.submit(METRICS[family].compute, captions, {}, settings) for family in outside}
        for family in sorted(families, key=lambda family: bool(METRICS[family].own_process or METRICS[family].parts)):
            try:
                for part in METRICS[family].parts:
                    if failed and part in failed:
                        raise failed[part]
                work = running[family].result if family in running else None
                done[family] = work() if work else METRICS[family].compute(captions, done, settings)
            except DiffusionLinkError as error:
                if failed is None:
                    raise
                failed[family] = error
    return done


def _captions(candidates: Sequence[str] | Captions, references: Sequence[Sequence[str]] | None) -> Captions:
    if isinstance(candidates, Captions):
        if references is not None:
            raise InputError("references", "are given twice", "Leave them out: Captions already hold references")
        return candidates
    if references is None:
        raise InputError("references", "are missing", "Give one list of references per candidate")
    return Captions(candidates, references)


def _with_parts(families: Sequence[str]) -> list[str]:
    """The families and those that they are made of, parts first, none twice."""
    ordered: dict[str, None] = {}
    for family in families:
        ordered.update(dict.fromkeys(METRICS[family].parts))
        ordered[family] = None
    return list(ordered)
