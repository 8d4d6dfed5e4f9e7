"""FENSE's detector of disfluent captions (Zhou et al., 2022): a BERT with one logit per kind of error."""

import os
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, BertModel, BertPreTrainedModel

from ..errors import ModelFolderError
from ..loading import WEIGHTS_AND_TEXT, LoadPath, load_strict, load_tokenizer, refuse_pickles, resolve_folder

ERRORS = ("add_tail", "repeat_event", "repeat_adv", "remove_conj", "remove_verb", "error")
MAX_TOKENS = 64  # as in training


class FluencyErrorDetector(BertPreTrainedModel):
    """Logits of fluency errors from the first token's state; the last class is "any error".

    The head sits on the last hidden state, without BERT's pooling layer, so ``BertForSequenceClassification`` is
    another model. ``from_pretrained`` and ``save_pretrained`` are those of transformers; `load_fluency_detector` is
    the strict way to load.
    """

    def __init__(self, config):
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.dropout = torch.nn.Dropout(config.hidden_dropout_prob)
        self.classifier = torch.nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs) -> torch.Tensor:
        """(B, L) token ids and mask → (B, number of errors) logits."""
        states = self.bert(input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        return self.classifier(self.dropout(states[:, 0]))


def load_fluency_detector(model: LoadPath) -> tuple[FluencyErrorDetector, object]:
    """The detector and its tokenizer from a folder or Hub id.

    Raises:
        HubAccessError: the repository cannot be reached.
        ModelFolderError: no such folder, a pickle, missing or additional weights, NaN.
    """
    folder = resolve_folder(model, allow_patterns=WEIGHTS_AND_TEXT)
    refuse_pickles(folder)
    detector = load_strict(FluencyErrorDetector.from_pretrained, folder)
    return detector.eval(), load_tokenizer(folder)


def convert_fense_checkpoint(checkpoint: str | os.PathLike, output: str | os.PathLike, base: LoadPath | None = None):
    """Writes FENSE's published ``echecker_*.ckpt`` as a folder that `load_fluency_detector` reads.

    Args:
        checkpoint: the file; it is read without running code from it.
        output: folder to write.
        base: folder or Hub id of the BERT's configuration and tokenizer; None takes the one that the file names.

    Raises:
        ModelFolderError: not such a checkpoint, or one whose weights do not fit the configuration.
        HubAccessError: ``base`` cannot be reached.
    """
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        name, classes, weights = saved["model_type"], int(saved["num_classes"]), saved["state_dict"]
        weights = {_renamed(key): value for key, value in weights.items()}
    except Exception as error:
        raise ModelFolderError(checkpoint, f"is not a fluency detector of FENSE ({error})", "Fetch it again") from error
    base_folder = resolve_folder(base or name, allow_patterns=["*.json", "*.txt"])  # its weights are not needed
    config = AutoConfig.from_pretrained(base_folder)
    config.num_labels = classes
    if classes == len(ERRORS):
        config.id2label = dict(enumerate(ERRORS))
        config.label2id = {label: k for k, label in enumerate(ERRORS)}
    detector = FluencyErrorDetector(config)
    # Position ids are a buffer that older versions of transformers saved; the pooling layer was there, but unused.
    weights = {key: value for key, value in weights.items() if "position_ids" not in key and ".pooler." not in key}
    try:
        detector.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelFolderError(
            checkpoint, f"its weights do not fit {base_folder} ({error})", "Name the BERT that it was trained from"
        ) from error
    detector.save_pretrained(output)
    AutoTokenizer.from_pretrained(base_folder).save_pretrained(output)
    return Path(output)


def _renamed(key: str) -> str:
    for old, new in (("encoder.", "bert."), ("clf.", "classifier.")):
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key
