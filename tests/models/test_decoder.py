"""The caption decoder: loss, generation, and adapters that are never lost."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from diffusion_link_hf import CaptionDecoder
from diffusion_link_hf.errors import InputError, ModelFolderError
from diffusion_link_hf.loading import BaseReference
from support.models import HIDDEN_SIZE, make_decoder, make_language_model, make_tokenizer

CAPTIONS = ["A dog barks", "Rain", "Wind howls while a bell rings"]


def prefixes(rows=3, m=4, seed=0) -> torch.Tensor:
    return torch.randn(rows, m, HIDDEN_SIZE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("instruction", [None, "Describe: "])
def test_loss_is_the_cross_entropy_of_the_caption_alone(lora, instruction):
    """Row by row, without padding, from the logits of the plain model over [BOS, instruction, prefix, caption]."""
    decoder = make_decoder(lora, instruction)
    prefix = prefixes()
    ids, mask = decoder.tokenize(CAPTIONS)
    output = decoder(prefix, ids, mask)
    embed, tokenizer = decoder.base_model.get_input_embeddings(), decoder.tokenizer
    losses = []
    for row, caption in zip(prefix, CAPTIONS, strict=True):
        prompt = tokenizer("<s>" + (instruction or ""), add_special_tokens=False)["input_ids"]
        target = [*tokenizer(caption, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        hidden = torch.cat([embed(torch.tensor(prompt)), row, embed(torch.tensor(target))])[None]
        logits = decoder.model(inputs_embeds=hidden).logits[0, len(prompt) + len(row) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="none"))
    torch.testing.assert_close(output.loss, torch.cat(losses).mean(), atol=1e-5, rtol=0)
    assert output.logits.shape == (*ids.shape, len(tokenizer))


def test_targets_end_with_eos_and_are_padded_right():
    decoder = make_decoder()
    ids, mask = decoder.tokenize(CAPTIONS)
    assert mask.sum(1).tolist() == [len(c) + 1 for c in CAPTIONS]
    assert [ids[i, len(c)].item() for i, c in enumerate(CAPTIONS)] == [decoder.tokenizer.eos_token_id] * 3


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_captions_do_not_depend_on_the_batch(options):
    decoder, prefix = make_decoder(instruction="Hear: "), prefixes(32)
    together = decoder.generate(prefix, max_new_tokens=12, **options)
    for size in (1, 2, 7):
        parts = [decoder.generate(part, max_new_tokens=12, **options) for part in prefix.split(size)]
        assert [row for part in parts for row in part] == together
    order = torch.randperm(32)
    assert decoder.generate(prefix[order], max_new_tokens=12, **options) == [together[i] for i in order]


def test_greedy_equals_the_argmax_loop():
    decoder, prefix = make_decoder(), prefixes(1)
    hidden = decoder._prompt(prefix)
    written = []
    with torch.no_grad():
        for _ in range(10):
            token = decoder.model(inputs_embeds=hidden).logits[0, -1].argmax()
            if token == decoder.tokenizer.eos_token_id:
                break
            written.append(token)
            hidden = torch.cat([hidden, decoder.base_model.get_input_embeddings()(token)[None, None]], dim=1)
    assert decoder.generate(prefix, max_new_tokens=10) == [
        [decoder.tokenizer.decode(written, skip_special_tokens=True).strip()]
    ]


def test_several_captions():
    decoder = make_decoder()
    beams = decoder.generate(prefixes(2), num_return_sequences=3, num_beams=4, max_new_tokens=6)
    assert [len(row) for row in beams] == [3, 3]
    sampled = decoder.generate(prefixes(2), num_return_sequences=5, do_sample=True, max_new_tokens=6)
    assert [len(row) for row in sampled] == [5, 5]


def test_sampling_repeats_with_its_generator_and_leaves_the_global_state():
    decoder, prefix = make_decoder(), prefixes(4)
    before = torch.get_rng_state()

    def sample(seed):
        return decoder.generate(
            prefix, do_sample=True, max_new_tokens=10, generator=torch.Generator().manual_seed(seed)
        )

    assert sample(1) == sample(1) != sample(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_options_reach_generate():
    decoder = make_decoder()
    short = decoder.generate(prefixes(1), max_new_tokens=3)[0][0]
    long = decoder.generate(prefixes(1), max_new_tokens=12, min_new_tokens=12)[0][0]
    assert len(long) > len(short)
    plain = decoder.generate(prefixes(1))[0][0]
    k = next(k for k, letter in enumerate(plain) if letter.isascii() and letter.isalnum())
    assert decoder.generate(prefixes(1), stop_strings=[plain[k]])[0][0] == plain[: k + 1]


@pytest.mark.parametrize(
    "options",
    [
        {"temperatur": 1.0},
        {"inputs_embeds": None},
        {"num_return_sequences": 2},
        {"num_return_sequences": 0},
        {"num_return_sequences": True},
        {"num_beams": 0},
        {"num_beams": 2.5},
        {"max_new_tokens": 0},
        {"temperature": 0.0, "do_sample": True},
        {"top_k": -1, "do_sample": True},
        {"max_length": 5},
        {"return_dict_in_generate": True},
        {"penalty_alpha": 0.6},
        {"num_beam_groups": 2, "num_beams": 4},
        {"do_sample": "no"},
        {"generator": 5},
        {"generator": [1, 2, 3]},
    ],
    ids=str,
)
def test_impossible_options_are_refused(options):
    with pytest.raises(InputError):
        make_decoder().generate(prefixes(1), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"assistant_early_exit": 1},
        {"prompt_lookup_num_tokens": 3},
        {"num_assistant_tokens": 3},
        {"is_assistant": True},
        {"guidance_scale": 2.0},
        {"token_healing": True},
        {"encoder_repetition_penalty": 1.5},
        {"encoder_no_repeat_ngram_size": 2},
        {"prefill_chunk_size": 2},
        {"forced_bos_token_id": 7},
        {"min_length": 3},
        {"max_length": 3},
    ],
    ids=str,
)
def test_what_a_soft_prefix_cannot_serve_is_refused_by_name(options):
    decoder, prefix = make_decoder(), prefixes(1)
    layers, expected = decoder.config.num_hidden_layers, decoder.generate(prefix, max_new_tokens=5)
    with pytest.raises(InputError, match=f"generation_kwargs.*{next(iter(options))}") as caught:
        decoder.generate(prefix, max_new_tokens=5, **options)
    if "max_length" in options:
        assert caught.value.remedy == "Use max_new_tokens"
    assert decoder.config.num_hidden_layers == layers
    assert decoder.generate(prefix, max_new_tokens=5) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"min_new_tokens": "wrong"},
        {"stop_strings": -7},
        {"no_repeat_ngram_size": [[9]]},
        {"watermarking_config": "wrong"},
        {"forced_eos_token_id": [[99999]]},
        {"top_p": "wrong", "do_sample": True},
    ],
    ids=str,
)
def test_options_that_fail_in_the_search_are_named(options):
    with pytest.raises(InputError, match=f"generation_kwargs.*{next(iter(options))}") as caught:
        make_decoder().generate(prefixes(2), max_new_tokens=4, **options)
    assert not isinstance(caught.value.__cause__, InputError | None)


def test_errors_that_no_option_caused_stay_what_they_are(monkeypatch):
    decoder = make_decoder()

    def broken(*_, error=RuntimeError, **__):
        raise error("the device is lost")

    monkeypatch.setattr(decoder.model, "generate", broken)
    with pytest.raises(RuntimeError, match="lost"):
        decoder.generate(prefixes(1))
    monkeypatch.setattr(decoder.model, "generate", lambda **_: broken(error=torch.OutOfMemoryError))
    with pytest.raises(torch.OutOfMemoryError):
        decoder.generate(prefixes(1), temperature=0.7)


@pytest.mark.parametrize(
    "option",
    [
        {"suppress_tokens": [40]},
        {"begin_suppress_tokens": [40]},
        {"sequence_bias": [[[40], 5.0]]},
        {"bad_words_ids": [[40]]},
        {"repetition_penalty": 1.5},
        {"length_penalty": 0.5, "num_beams": 2},
        {"exponential_decay_length_penalty": (2, 1.5)},
        {"cache_implementation": "static"},
        {"top_k": 5, "top_p": 0.9, "min_p": 0.1, "do_sample": True},
    ],
    ids=str,
)
def test_options_that_work_leave_the_next_captions_alone(option):
    decoder, prefix = make_decoder(), prefixes(2)
    expected = decoder.generate(prefix, max_new_tokens=6)
    assert len(decoder.generate(prefix, max_new_tokens=6, **option)) == 2
    assert decoder.generate(prefix, max_new_tokens=6) == expected


def test_wrong_prefix_is_refused():
    with pytest.raises(InputError, match="prefix"):
        make_decoder().generate(torch.randn(2, 3, HIDDEN_SIZE + 1))


@pytest.mark.parametrize("lora", [False, True])
def test_round_trip(tmp_path, lora):
    decoder, prefix = make_decoder(lora, "Say: "), prefixes()
    decoder.save_pretrained(tmp_path)
    again = CaptionDecoder.from_pretrained(tmp_path)
    assert again.has_adapter == lora
    assert again.instruction == "Say: "
    ids, mask = decoder.tokenize(CAPTIONS)
    with torch.no_grad():
        assert torch.equal(again(prefix, ids, mask).logits, decoder(prefix, ids, mask).logits)
    again.save_pretrained(tmp_path / "again")
    for file in ("adapter_model.safetensors",) if lora else ("base/model.safetensors",):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / file).read_bytes()
    for file in tmp_path.rglob("*.json"):
        assert str(tmp_path) not in file.read_text()


def test_the_adapter_matters(tmp_path):
    """A lost adapter would go unnoticed by a round trip of zeros; with it and without it, the logits differ."""
    decoder, prefix = make_decoder(lora=True), prefixes()
    ids, mask = decoder.tokenize(CAPTIONS)
    with torch.no_grad():
        tuned = decoder(prefix, ids, mask).logits
        with decoder.model.disable_adapter():
            plain = decoder(prefix, ids, mask).logits
    assert (tuned - plain).abs().max() > 1e-2


def test_base_is_saved_without_the_adapter(tmp_path):
    decoder = make_decoder(lora=True)
    decoder.save_pretrained(tmp_path)
    plain = make_language_model()
    assert set(load_file(tmp_path / "base" / "model.safetensors")) <= set(plain.state_dict())


def test_continued_training_changes_the_adapter_only(tmp_path):
    make_decoder(lora=True).save_pretrained(tmp_path)
    decoder = CaptionDecoder.from_pretrained(tmp_path, trainable=True)
    names = [name for name, p in decoder.named_parameters() if p.requires_grad]
    assert names
    assert all("lora_" in name for name in names)


def round_weights(model, dtype):
    """To values that survive being stored in ``dtype``."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 2}},
        {"target_modules": ["q_proj"], "use_dora": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
    ids=["all linear", "embeddings", "ranks", "dora", "a whole layer"],
)
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_adapters_of_every_kind_round_trip(tmp_path, options, dtype):
    model = get_peft_model(make_language_model(), LoraConfig(r=4, task_type="CAUSAL_LM", **options))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    round_weights(model, dtype)
    decoder = CaptionDecoder(model, make_tokenizer()).eval()
    decoder.save_pretrained(tmp_path, dtype=dtype)
    assert set(load_file(tmp_path / "base" / "model.safetensors")) == set(make_language_model().state_dict())
    again, (ids, mask) = CaptionDecoder.from_pretrained(tmp_path), decoder.tokenize(CAPTIONS)
    with torch.no_grad():
        assert torch.equal(again(prefixes(), ids, mask).logits, decoder(prefixes(), ids, mask).logits)


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_tied_weights_round_trip(tmp_path, dtype):
    config = make_language_model().config
    config.tie_word_embeddings = True
    model = LlamaForCausalLM(config)
    round_weights(model, dtype)
    decoder = CaptionDecoder(model, make_tokenizer()).eval()
    decoder.save_pretrained(tmp_path, dtype=dtype)
    again, (ids, mask) = CaptionDecoder.from_pretrained(tmp_path), decoder.tokenize(CAPTIONS)
    with torch.no_grad():
        assert torch.equal(again(prefixes(), ids, mask).logits, decoder(prefixes(), ids, mask).logits)


def test_adapters_that_a_folder_cannot_hold_are_refused(tmp_path):
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    for model in (get_peft_model(make_language_model(), lora, adapter_name="mine"), make_decoder(lora=True).model):
        if "default" in model.peft_config:
            model.add_adapter("second", lora)
        with pytest.raises(InputError, match="default"):
            CaptionDecoder(model, make_tokenizer()).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="injected"):
        CaptionDecoder(inject_adapter_in_model(lora, make_language_model()), make_tokenizer())


def test_half_precision_leaves_the_positions_exact(tmp_path):
    """Rotary frequencies in 16 bits would blur the positions; transformers keeps them in float32."""
    make_decoder(lora=True).save_pretrained(tmp_path)
    half = CaptionDecoder.from_pretrained(tmp_path, dtype=torch.float16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float16}
    assert {buffer.dtype for buffer in half.buffers()} == {torch.float32}


def test_a_stale_adapter_is_not_put_onto_the_next_model(tmp_path):
    make_decoder(lora=True).save_pretrained(tmp_path)
    make_decoder(lora=False).save_pretrained(tmp_path)
    assert not CaptionDecoder.from_pretrained(tmp_path).has_adapter


def test_nothing_asks_the_hub_or_the_terminal(tmp_path, monkeypatch):
    """PEFT would look up the base on the Hub; transformers would ask whether to run the folder's code."""

    def forbidden(*_, **__):
        raise AssertionError("went outside")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", forbidden)
    monkeypatch.setattr("builtins.input", forbidden)
    decoder = make_decoder(lora=True)
    decoder.source = BaseReference("someone/base", "abc")
    decoder.model.peft_config["default"].base_model_name_or_path = "someone/base"
    decoder.save_pretrained(tmp_path, include_base=True)
    CaptionDecoder.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config |= {"model_type": "unheard_of", "auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "c.M"}}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    (tmp_path / "base" / "c.py").write_text("raise SystemExit('code of the folder ran')")
    with pytest.raises(ModelFolderError, match="custom code"):
        CaptionDecoder.from_pretrained(tmp_path)


def damage(folder, how):
    adapter = folder / "adapter_model.safetensors"
    weights = load_file(adapter)
    name = sorted(weights)[0]
    if how == "missing key":
        del weights[name]
    elif how == "extra key":
        weights["base_model.model.surplus.lora_A.weight"] = torch.zeros(2, 2)
    elif how == "wrong shape":
        weights[name] = torch.zeros(3, 3)
    elif how == "nan":
        weights[name][0, 0] = float("nan")
    elif how == "unprefixed":
        weights = {k.removeprefix("base_model.model."): v for k, v in weights.items()}
    save_file(weights, adapter, metadata={"format": "pt"})
    if how == "torn":
        adapter.write_bytes(adapter.read_bytes()[:-10])
    elif how == "no adapter":
        adapter.unlink()
    elif how == "no adapter config":
        (folder / "adapter_config.json").unlink()
    elif how == "pickle":
        torch.save({}, folder / "adapter_model.bin")
    elif how == "no base":
        (folder / "base" / "model.safetensors").unlink()
    elif how == "no base entry":
        (folder / "decoder_config.json").write_text("{}")
    elif how.startswith("base at "):
        (folder / "decoder_config.json").write_text(json.dumps({"base": {"path": how[8:] or str(folder / "base")}}))
    elif how == "large tokenizer":
        tokenizer = make_tokenizer()
        tokenizer.add_tokens(["<one more>"])
        tokenizer.save_pretrained(folder)
    elif how == "no tokenizer":
        for file in folder.glob("tokenizer*"):
            file.unlink()


@pytest.mark.parametrize(
    "how",
    [
        "missing key",
        "extra key",
        "wrong shape",
        "nan",
        "unprefixed",
        "torn",
        "no adapter",
        "no adapter config",
        "pickle",
        "no base",
        "no base entry",
        "no tokenizer",
        "base at ",
        "base at ../decoder/base",
        "base at base/../base",
        "base at C:\\base",
        "large tokenizer",
    ],
)
def test_damaged_folders_are_refused(tmp_path, how):
    folder = tmp_path / "decoder"
    make_decoder(lora=True).save_pretrained(folder)
    damage(folder, how)
    with pytest.raises(ModelFolderError) as caught:
        CaptionDecoder.from_pretrained(folder)
    assert caught.value.remedy


def test_a_referenced_base_is_not_copied(tmp_path):
    decoder = make_decoder(lora=True)
    decoder.source = BaseReference("someone/base", "abc")
    decoder.save_pretrained(tmp_path)
    assert not (tmp_path / "base" / "model.safetensors").exists()
    assert json.loads((tmp_path / "decoder_config.json").read_text())["base"] == decoder.source.as_json()
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "someone/base"
    assert CaptionDecoder.from_config(tmp_path).hidden_size == HIDDEN_SIZE


def test_nothing_is_lost_silently(tmp_path):
    plain = CaptionDecoder(make_language_model(), make_tokenizer(), source=BaseReference("a/b"))
    with pytest.raises(InputError, match="lost"):
        plain.save_pretrained(tmp_path, include_base=False)
    with pytest.raises(InputError, match="repository"):
        make_decoder().save_pretrained(tmp_path, include_base=False)
