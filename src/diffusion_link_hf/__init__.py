"""Bridge the audio–text modality gap and caption audio with Diffusion-Link (arXiv 2510.11330).

Every public name is imported at its first use: ``import diffusion_link_hf`` alone loads neither torch nor transformers.
"""

import importlib

__version__ = "0.1.0"

# Public name → the module that defines it. These short names are also what model_index.json records, so that a
# module may move without breaking a published pipeline.
_EXPORTS = {
    "AudioCaptionPipeline": "pipelines.audio_caption",
    "AudioCaptionPipelineOutput": "pipelines.output",
    "CaptionSegment": "pipelines.output",
    "DiffusionLinkPipeline": "pipelines.embedding_bridge",
    "DiffusionLinkPipelineOutput": "pipelines.output",
    "BridgeModel": "bridges.base",
    "DiffusionLinkModel": "bridges.diffusion_link",
    "DiffusionLinkModelOutput": "bridges.diffusion_link",
    "make_seed_bridge": "bridges.seed",
    "IdentityBridge": "bridges.centering",
    "MeanCentering": "bridges.centering",
    "LinearBridge": "bridges.linear",
    "RegressionBridge": "bridges.regression",
    "TextSubspaceBridge": "bridges.text_subspace",
    "MemoryProjection": "bridges.memory_projection",
    "DiffusionBridgeModel": "bridges.diffusion_bridge",
    "DiffGapModel": "bridges.diffgap",
    "make_scheduler": "bridges.sampling",
    "PrefixProjector": "models.prefix_projector",
    "ClapEncoder": "models.clap",
    "EverydayClapEncoder": "models.everyday_clap",
    "HeardSounds": "models.everyday_clap",
    "CaptionScorer": "models.caption_scorer",
    "CaptionDecoder": "models.decoder",
    "BaseReference": "loading",
    "ClapLogMel": "models.log_mel",
    "AudioWindow": "audio",
    "find_audio_files": "audio",
    "load_audio": "audio",
    "split_windows": "audio",
    "stream_audio": "audio",
    "stream_windows": "audio",
    "CaptionSummary": "applications.caption_files",
    "caption_files": "applications.caption_files",
    "open_data": "data.captioned_audio",
    "CaptionedAudio": "data.captioned_audio",
    "CaptionedAudioData": "data.captioned_audio",
    "AudioFolder": "data.audio_folder",
    "AudioCaps": "data.audiocaps",
    "Clotho": "data.clotho",
    "CaptionedParquet": "data.captioned_parquet",
    "EmbeddingCache": "embeddings.cache",
    "EmbeddingPairs": "embeddings.pairs",
    "embed": "embeddings.embedding",
    "train": "hub.training",
    "load_recipe": "training.recipes",
    "list_recipes": "training.recipes",
    "BridgeTrainingArguments": "training.arguments",
    "DecoderTrainingArguments": "training.arguments",
    "train_bridge": "training.bridge",
    "METHODS": "training.methods",
    "get_method": "training.methods",
    "convert_laion": "models.laion",
    "PipelineCard": "hub.card",
    "push": "hub.push",
    "FittedBridge": "analysis.gap_measures",
    "GapSettings": "analysis.gap_measures",
    "measure_bridges": "analysis.gap_measures",
    "gap": "experiments.gap",
    "evaluate": "experiments.captioning",
    "evaluate_pipeline": "experiments.testing",
    "eval_results": "reports.gap",
    "score": "metrics.registry",
    "Captions": "metrics.captions",
    "CaptionScores": "metrics.captions",
    "FluencyErrorDetector": "metrics.fluency_detector",
    "MetricDependencyError": "metrics.errors",
    "MetricToolError": "metrics.errors",
    "DiffusionLinkError": "errors",
    "InputError": "errors",
    "AudioError": "errors",
    "AudioNotFoundError": "errors",
    "AudioDecodeError": "errors",
    "AudioContentError": "errors",
    "AudioFormatError": "errors",
    "ModelFolderError": "errors",
    "HubAccessError": "errors",
    "RecipeError": "errors",
    "DataError": "errors",
}

__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .collector import collector_paused

    with collector_paused():
        value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_EXPORTS})
