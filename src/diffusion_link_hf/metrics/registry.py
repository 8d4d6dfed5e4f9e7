"""All metrics by name, what each needs, and `score`, which computes several with shared work."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import PathLike

from ..errors import InputError
from . import bleu, cider_d, fense, meteor, rouge_l, sbert, spice, spider, tokenization, vocabulary
from .captions import Captions, CaptionScores

DEFAULT_METRICS = ("bleu", "rouge_l", "meteor", "cider_d")


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
    wanted = score_names(metrics)
    try:
        settings = ScoreOptions(**options)
    except TypeError as error:
        raise InputError("options", str(error), f"Known are {', '.join(ScoreOptions.__dataclass_fields__)}") from error
    captions = _captions(candidates, references)
    needed = _with_parts(dict.fromkeys(wanted.values()))
    for family in needed:
        METRICS[family].check(settings)
    if "cider_d" in needed:
        cider_d.check_rows(captions)
    done = _compute(needed, captions, settings)
    return CaptionScores(
        {score: done[family].corpus[score] for score, family in wanted.items()},
        {
            score: done[family].per_caption[score]
            for score, family in wanted.items()
            if score in done[family].per_caption
        },
    )


def _compute(families: Sequence[str], captions: Captions, settings: ScoreOptions) -> dict[str, CaptionScores]:
    """The results of ``families``, which holds parts before what is made of them."""
    outside = [family for family in families if METRICS[family].own_process]
    done: dict[str, CaptionScores] = {}
    with ThreadPoolExecutor(max(len(outside), 1)) as pool:
        if outside:
            captions.tokens  # noqa: B018 - once, before several threads ask for them
        running = {family: pool.submit(METRICS[family].compute, captions, {}, settings) for family in outside}
        for family in sorted(families, key=lambda family: bool(METRICS[family].own_process or METRICS[family].parts)):
            if family in running:
                done[family] = running[family].result()
            else:
                done[family] = METRICS[family].compute(captions, done, settings)
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
