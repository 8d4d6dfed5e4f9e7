"""Tiny random models of the real classes, for tests that need a whole pipeline in a second."""

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import ClapConfig, ClapModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from diffusion_link_hf import (
    AudioCaptionPipeline,
    CaptionDecoder,
    ClapEncoder,
    DiffusionLinkModel,
    EverydayClapEncoder,
    PrefixProjector,
)
from diffusion_link_hf.models.everyday_clap import EverydayClapConfig, EverydayClapModel

EMBEDDING_DIM = 32
HIDDEN_SIZE = 24


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level tokenizer without merges: any text, every byte a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=60,
    )


def make_clap_model(fused: bool = False, embedding_dim: int = EMBEDDING_DIM) -> ClapModel:
    audio = {
        "spec_size": 256,
        "num_mel_bins": 64,
        "window_size": 4,
        "patch_size": 16,
        "patch_stride": [16, 16],
        "patch_embeds_hidden_size": 12,
        "depths": [1, 1, 1],
        "num_attention_heads": [1, 2, 4],
        "hidden_size": 48,
        "projection_dim": embedding_dim,
        "enable_fusion": fused,
        "aff_block_r": 4,
    }
    text = {
        "vocab_size": len(make_tokenizer()),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 70,
        "projection_dim": embedding_dim,
        "type_vocab_size": 1,
    }
    return ClapModel(ClapConfig(audio_config=audio, text_config=text, projection_dim=embedding_dim)).eval()


def make_clap(fused: bool = False, embedding_dim: int = EMBEDDING_DIM) -> ClapEncoder:
    return ClapEncoder(make_clap_model(fused, embedding_dim), make_tokenizer())


def make_everyday_clap(seed: int = 0) -> EverydayClapEncoder:
    """Its audio network and its space have one size; tagger and text tower are small."""
    torch.manual_seed(seed)
    text = {
        "vocab_size": len(make_tokenizer()),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 70,
        "type_vocab_size": 1,
    }
    tags = ["bell", "dog", "rain", "silence", "speech", "wind"]
    config = EverydayClapConfig(
        tags, ["hand bell", "church bell"], hidden_size=12, num_networks=2, pair_hidden_size=10, text_config=text
    )
    model = EverydayClapModel(config)
    with torch.no_grad():
        for table in (model.space.sentences, model.space.codes, model.space.fine_codes, model.space.planes):
            table.normal_()
        for block in model.network.blocks:  # strong enough that features differ from sound to sound
            for convolution in (block.conv1, block.conv2):
                torch.nn.init.kaiming_normal_(convolution.weight)
    return EverydayClapEncoder(model, make_tokenizer())


def make_language_model() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(make_tokenizer()),
            hidden_size=HIDDEN_SIZE,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
        )
    ).eval()


def make_decoder(lora: bool = True, instruction: str | None = None) -> CaptionDecoder:
    model = make_language_model()
    if lora:
        model = get_peft_model(
            model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        )
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at first, which would hide a lost adapter
                torch.nn.init.normal_(parameter, std=0.3)
    return CaptionDecoder(model, make_tokenizer(), instruction).eval()


def make_link(embedding_dim: int = EMBEDDING_DIM, **config) -> DiffusionLinkModel:
    link = DiffusionLinkModel(embedding_dim=embedding_dim, width=40, time_embed_dim=16, **config).eval()
    for parameter in link.parameters():  # zero-initialized layers would hide mistakes
        torch.nn.init.normal_(parameter, std=0.2)
    link.audio_mean.normal_(std=0.1)
    link.text_mean.normal_(std=0.1)
    return link


def make_responsive_link() -> DiffusionLinkModel:
    """A link whose output follows its input; `make_link` maps all embeddings close to one, and captions hardly differ.

    The price is float32 rounding of 1e-6 rather than 1e-7, which captions do not show but embeddings would.
    """
    link = make_link()
    with torch.no_grad():
        for name, parameter in link.named_parameters():
            if name.endswith("bias"):
                parameter.mul_(0.1)
            elif parameter.ndim == 1:  # LayerNorm
                parameter.fill_(1.0)
    return link


def make_pipeline(seed: int = 0, lora: bool = True, instruction: str | None = None) -> AudioCaptionPipeline:
    torch.manual_seed(seed)
    projector = PrefixProjector(EMBEDDING_DIM, HIDDEN_SIZE, num_prefix_tokens=3, num_layers=2).eval()
    for parameter in projector.parameters():
        torch.nn.init.normal_(parameter, std=2.0)  # strong enough that captions differ from recording to recording
    pipeline = AudioCaptionPipeline(
        clap=make_clap(), link=make_responsive_link(), projector=projector, decoder=make_decoder(lora, instruction)
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
