"""Caption metrics: BLEU, ROUGE-L, METEOR, CIDEr-D, SPICE, SPIDEr, SBERT similarity, FENSE and the vocabulary.

```python
from diffusion_link_hf.metrics import score

scores = score(
    ["a dog barks", "rain falls"],
    [["a dog is barking", "dogs bark"], ["it rains"]],
    metrics=["rouge_l", "bleu_1"],
)
scores.corpus  # {"rouge_l": …, "bleu_1": …}
scores.per_caption["rouge_l"]  # (2,) float64
```
"""

from .captions import Captions, CaptionScores
from .errors import MetricDependencyError, MetricToolError
from .registry import DEFAULT_METRICS, METRICS, SCORE_NAMES, missing_dependencies, score, score_each, score_names

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "SCORE_NAMES",
    "CaptionScores",
    "Captions",
    "MetricDependencyError",
    "MetricToolError",
    "missing_dependencies",
    "score",
    "score_each",
    "score_names",
]
