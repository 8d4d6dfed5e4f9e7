"""The words of a model card that do not depend on the model: names of metrics, licenses, uses, limits."""

from ..metrics import SCORE_NAMES
from ..metrics.vocabulary import NAMES as VOCABULARY

# Identifiers of the Hub for scores that it knows under another name.
_IDENTIFIERS = {**{f"bleu_{n}": "bleu" for n in range(1, 5)}, "rouge_l": "rouge", "cider_d": "cider"}
# Licenses of base models that are known to this package; the cards of others say to look them up.
BASE_LICENSES = {
    "laion/larger_clap_general": "apache-2.0",
    "laion/larger_clap_music_and_speech": "apache-2.0",
    "laion/clap-htsat-fused": "apache-2.0",
    "laion/clap-htsat-unfused": "apache-2.0",
    "meta-llama/Llama-2-7b-hf": "llama2",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "apache-2.0",
}
# Score or figure of metrics.json → identifier of the metric and its name in words. What is not here stays in its file.
METRIC_NAMES = {
    "raw": ("cosine_similarity", "Matched cosine audio → text, raw CLAP embeddings"),
    "centered": ("cosine_similarity", "Matched cosine audio → text, centered embeddings"),
    "ridge": ("cosine_similarity", "Matched cosine audio → text, ridge regression"),
    "link": ("cosine_similarity", "Matched cosine audio → text, this link"),
    "link_text_to_text": ("cosine_similarity", "Matched cosine text → text, this link"),
    "matched_audio": ("cosine_similarity", "Matched cosine audio → text"),
    "matched_text": ("cosine_similarity", "Matched cosine text → text"),
    "loss": ("loss", "Cross-entropy of the validation captions"),
    "perplexity": ("perplexity", "Perplexity of the validation captions"),
} | {score: (_IDENTIFIERS.get(score, score), name) for score, name in SCORE_NAMES.items() if score not in VOCABULARY}
# Folders of the machine that trained, and what does not touch the weights.
UNSAID_FIELDS = ("stage", "cache", "output", "link", "clap", "resume", "report_to", "log_every", "keep_checkpoints")
TASKS = {
    "AudioCaptionPipeline": ("audio-to-text", "Audio captioning"),
    "DiffusionLinkPipeline": ("feature-extraction", "Bridging of the audio–text modality gap"),
}
USE = {
    "AudioCaptionPipeline": """from diffusion_link_hf import AudioCaptionPipeline

pipe = AudioCaptionPipeline.from_pretrained("{repo_id}")
pipe("recording.wav").captions  # paths, arrays with their sampling rate, bytes; one caption per ten seconds""",
    "DiffusionLinkPipeline": """from diffusion_link_hf import DiffusionLinkPipeline

pipe = DiffusionLinkPipeline.from_pretrained("{repo_id}")
pipe(embeds, "audio").embeds  # (B, D) CLAP embeddings → (B, D) text-like ones""",
}
LIMITS = {
    "AudioCaptionPipeline": "Captions describe windows of ten seconds, with the words of the training captions. A "
    "sound that training did not hold gets the caption of the most similar one, with no sign of doubt. Speech is not "
    "transcribed. Captions are no evidence: do not base decisions about people or safety on them.",
    "DiffusionLinkPipeline": "The link fits embeddings of the CLAP that it was trained on, and no others. It moves "
    "embeddings towards text; a higher cosine is not more information.",
}
TAGS = ("audio-captioning", "clap", "diffusion-link", "modality-gap")
CITATION = """@article{diffusionlink2025,
  title  = {Diffusion-Link: Diffusion Probabilistic Model for Bridging the Audio-Text Modality Gap},
  journal = {arXiv preprint arXiv:2510.11330},
  year   = {2025}
}"""
