"""Exports load strictly in `transformers` and give its numbers; its saves load here.

Every tensor is random, norms and biases too, so that nothing can be dropped or swapped
unseen. Recipes for the smallest configurations stand with each test.
"""

import json
from functools import partial

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from data_pipelines.tokenizers.chameleon import ChameleonVocabulary, train_vocabulary
from unitoken_jax import convert
from unitoken_jax.convert.formats import format_of, network_of
from unitoken_jax.convert.table import export_tensors
from unitoken_jax.models.decoder import DecoderConfig
from unitoken_jax.models.siglip import (
    SiglipConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
)
from unitoken_jax.models.unitoken import UniToken, UniTokenConfig
from unitoken_jax.models.vqgan import VQGAN, VQGANConfig

TOKENS = np.random.default_rng(1).integers(0, 48, (2, 11))
LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")
CODES = range(4, 20)  # ids of the image codes, whose logits transformers hides
NAMES = {f"IMGIMG{str(i - 4).translate(LETTERS)}Z": i for i in CODES} | {"<image>": 3}
TEXT = [i for i in range(48) if i not in CODES]
VQ = VQGANConfig(
    resolution=32,
    ch=32,
    ch_mult=(1, 2),
    num_res_blocks=1,
    z_channels=8,
    embed_dim=8,
    n_embed=16,
)


def chameleon(**changes):
    shape = {
        "vocab_size": 48,
        "hidden": 32,
        "intermediate": 64,
        "layers": 2,
        "heads": 4,
        "kv_heads": 4,
        "head_dim": 8,
    }
    return DecoderConfig(**(shape | changes))


def random_params(config, scale=0.3):
    """Normal numbers around 0, or around 1 for the scales of norms."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        center = 1.0 if path[-1].key == "scale" else 0.0
        return rng.normal(center, scale, leaf.shape).astype(np.float32)

    abstract = network_of(config).abstract(config)
    return jax.tree_util.tree_map_with_path(draw, abstract)


def logits_of(config, params):
    module = network_of(config).module(config)

    def run(module, tokens):
        positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        return module.logits(module(module.embed(tokens), positions))

    return module.apply({"params": params}, TOKENS, method=run)


def loaded_strictly(model_class, folder, **options):
    """The model of a folder; nothing missing, nothing left over, nothing resized."""
    model, report = model_class.from_pretrained(
        folder, output_loading_info=True, **options
    )
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[fault], (fault, report[fault])
    config = model_class.config_class.from_pretrained(folder)
    again = model_class(config)
    again.load_state_dict(model.state_dict(), strict=True)
    return model.eval()


def close(theirs, ours):
    golden.assert_close(ours, theirs.detach().numpy())


def same_gradients(model, theirs, params, ours, config):
    """Compare gradients of a weighted sum of two outputs, under published names.

    Args:
        model: the PyTorch model.
        theirs: its output.
        params: our parameters.
        ours: parameters → our output.
        config: of our network.
    """
    weights = np.random.default_rng(4).normal(size=theirs.shape).astype(np.float32)
    (theirs * torch.tensor(weights)).sum().backward()
    expected = {
        name: parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    found = jax.jit(jax.grad(lambda params: (ours(params) * weights).sum()))(params)
    is_chameleon = isinstance(config, DecoderConfig)
    # Lumina's layout has one row of QK-norm a shard; theirs has a copy for each head.
    table = format_of("lumina" if is_chameleon else "siglip-hf").table(config)
    counts = network_of(config).counts(config)
    found = export_tensors(table, jax.device_get(found), counts)
    for name, gradient in found.items():
        if name.endswith(
            ("q_norm.weight", "q_norm.bias", "k_norm.weight", "k_norm.bias")
        ):
            copies = expected[name].reshape(len(gradient), -1, gradient.shape[-1])
            expected[name] = copies.sum(1)
    golden.assert_gradients(found, expected)


DECODERS = {
    "7b": chameleon(),
    "34b": chameleon(model_parallel_size=2, swin_norm=True),
    "grouped": chameleon(kv_heads=2, model_parallel_size=2),
    "every_head": chameleon(kv_heads=2, model_parallel_size=1, rope_theta=500.0),
}


@pytest.mark.parametrize("name", DECODERS)
def test_chameleon_gives_the_same_logits(name, tmp_path):
    config = DECODERS[name]
    params = random_params(config)
    convert.save(
        "chameleon-hf",
        network_of(config).module(config),
        params,
        tmp_path / "out",
        image_tokenizer=(VQGAN(VQ), random_params(VQ)),
        published={"vocabulary_map": NAMES},
    )
    model = loaded_strictly(
        transformers.ChameleonForConditionalGeneration,
        tmp_path / "out",
        attn_implementation="sdpa",
    )

    def ours(params):
        return logits_of(config, params)[..., np.array(TEXT)]

    theirs = model(torch.tensor(TOKENS)).logits[..., TEXT]
    close(theirs, ours(params))
    same_gradients(model, theirs, params, ours, config)


def test_decoder_of_unitoken_is_a_chameleon(tmp_path):
    vision = SiglipVisionConfig(hidden=24, mlp=40, layers=1, heads=2, image=28)
    config = UniTokenConfig(chameleon(), vision, first_image_code=4, last_image_code=19)
    params = random_params(config)
    convert.save(
        "chameleon-hf",
        UniToken(config),
        params,
        tmp_path / "out",
        image_tokenizer=(VQGAN(VQ), random_params(VQ)),
        published={"vocabulary_map": NAMES},
    )
    model = loaded_strictly(
        transformers.ChameleonForConditionalGeneration, tmp_path / "out"
    )
    ours = logits_of(config.decoder, params["decoder"])
    close(model(torch.tensor(TOKENS)).logits[..., TEXT], ours[..., np.array(TEXT)])


def test_image_tokenizer_gives_the_same_codes(tmp_path):
    params = random_params(VQ)
    convert.save(
        "chameleon-hf",
        network_of(chameleon()).module(chameleon()),
        random_params(chameleon()),
        tmp_path / "out",
        image_tokenizer=(VQGAN(VQ), params),
        published={"vocabulary_map": NAMES},
    )
    model = loaded_strictly(
        transformers.ChameleonForConditionalGeneration, tmp_path / "out"
    )
    images = np.random.default_rng(2).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    pixels = torch.tensor(images.transpose(0, 3, 1, 2))
    theirs = model.model.vqmodel.encode(pixels, return_dict=True).image_tokens
    ours = VQGAN(VQ).apply({"params": params}, images, method="encode")
    np.testing.assert_array_equal(np.asarray(ours).ravel(), theirs.numpy().ravel())


def run_folder(path, vocabulary, config, params):
    """A run as training leaves it: two stages and the data set with codes."""
    convert.save("jax", VQGAN(VQ), random_params(VQ), path / "tokenizer")
    convert.save("jax", UniToken(config), params, path / "stage2")
    described = json.loads((path / "stage2/config.json").read_text())
    described["codes"] = {"stage": "tokenizer"}
    (path / "stage2/config.json").write_text(json.dumps(described))
    (path / "codes/tokenizer").mkdir(parents=True)
    (path / "codes/tokenizer/tokenizer.json").write_text(vocabulary)


def test_a_run_answers_about_a_picture_in_transformers(tmp_path):
    """Vocabulary, end and tokenizer of the run; codes where the picture stands."""
    written = train_vocabulary(["a red cat? 12", "a dog, and two"] * 9, 16, 280, 4)
    size = len(json.loads(written)["model"]["vocab"])
    config = UniTokenConfig(
        chameleon(vocab_size=size), None, first_image_code=4, last_image_code=19
    )
    params = random_params(config)
    run_folder(tmp_path, written, config, params)
    convert.convert(
        "jax",
        "chameleon-hf",
        tmp_path / "stage2",
        tmp_path / "out",
        image_tokenizer=tmp_path / "tokenizer",
    )
    model = loaded_strictly(
        transformers.ChameleonForConditionalGeneration, tmp_path / "out"
    )
    vocabulary = ChameleonVocabulary.from_file(
        tmp_path / "codes/tokenizer/tokenizer.json"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    question = vocabulary.encode("A red cat? 2 dogs")
    assert tokenizer.encode("A red cat? 2 dogs", add_special_tokens=False) == question
    assert tokenizer.eos_token_id == vocabulary.end
    assert tokenizer.pad_token_id == vocabulary.pad
    assert tokenizer.convert_tokens_to_ids("<image>") == model.config.image_token_id
    assert tokenizer.decode(question) == "a red cat? 2 dogs"
    assert model.generation_config.eos_token_id == vocabulary.end
    assert model.generation_config.bos_token_id == vocabulary.bos
    assert model.generation_config.pad_token_id == vocabulary.pad

    image = np.random.default_rng(2).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    encode = partial(VQGAN(VQ).apply, method="encode")
    grid = np.asarray(encode({"params": random_params(VQ)}, image))[0]
    ids = [vocabulary.bos, vocabulary.boi]
    for row in grid:
        ids += [*vocabulary.code_ids[row].tolist(), vocabulary.newline]
    ids += [vocabulary.eoi, *question]
    shown = [model.config.image_token_id if i in CODES else i for i in ids]
    pixels = torch.tensor(image.transpose(0, 3, 1, 2))
    theirs = model(torch.tensor([shown]), pixel_values=pixels).logits.detach().numpy()
    positions = np.arange(len(ids))[None]
    ours = UniToken(config).apply(
        {"params": params},
        np.array([ids]),
        method=lambda m, t: m.logits(m.decoder(m.embed(t), positions)),
    )
    kept = [i for i in range(size) if i not in CODES]
    golden.assert_close(np.asarray(ours)[..., kept], theirs[..., kept])
    answer = model.generate(
        torch.tensor([shown]), pixel_values=pixels, max_new_tokens=3, do_sample=False
    )
    first = int(np.argmax(np.asarray(ours)[0, -1, kept]))
    assert int(answer[0, len(ids)]) == kept[first]


def test_what_transformers_saves_is_read_here(tmp_path):
    config = transformers.ChameleonConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocabulary_map={"<image>": 3},
        vq_config={
            "base_channels": 32,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
            "latent_channels": 8,
            "embed_dim": 8,
            "num_embeddings": 8,
            "resolution": 16,
            "attn_resolutions": [],
        },
    )
    model = transformers.ChameleonForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.3)
            if "_norm." in name:  # one vector for all heads, as published
                parameter.copy_(parameter[:1].expand_as(parameter))
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs/model.safetensors.index.json").exists()
    ours, params = convert.load("chameleon-hf", tmp_path / "theirs")
    close(model(torch.tensor(TOKENS)).logits, logits_of(ours.config, params))


def test_llama_gives_the_same_logits(tmp_path):
    config = chameleon(qk_norm=False, kv_heads=2)
    params = random_params(config)
    module = network_of(config).module(config)
    convert.save("llama-hf", module, params, tmp_path / "out")
    model = loaded_strictly(transformers.LlamaForCausalLM, tmp_path / "out")
    theirs = model(torch.tensor(TOKENS)).logits
    close(theirs, logits_of(config, params))
    same_gradients(model, theirs, params, partial(logits_of, config), config)


VISION = SiglipVisionConfig(hidden=24, mlp=40, layers=2, heads=2, image=42)
IMAGES = np.random.default_rng(3).uniform(-1, 1, (2, 42, 42, 3)).astype(np.float32)


@pytest.mark.parametrize("head", [True, False])
def test_siglip_image_tower_gives_the_same_tokens(head, tmp_path):
    config = SiglipVisionConfig(**(vars(VISION) | {"head": head}))
    params = random_params(config)
    module = network_of(config).module(config)
    convert.save("siglip-hf", module, params, tmp_path / "out")
    model = loaded_strictly(transformers.SiglipVisionModel, tmp_path / "out")
    theirs = model(torch.tensor(IMAGES.transpose(0, 3, 1, 2)))
    ours = module.apply({"params": params}, IMAGES)
    close(theirs.last_hidden_state, ours["tokens"])
    if head:
        close(theirs.pooler_output, ours["pooled"])


def test_siglip_towers_give_the_same_similarities(tmp_path):
    text = SiglipTextConfig(
        vocab_size=48, length=11, hidden=16, mlp=32, layers=1, heads=2
    )
    config = SiglipConfig(vision=VISION, text=text, embed=24)
    params = random_params(config)
    module = network_of(config).module(config)
    convert.save("siglip-hf", module, params, tmp_path / "out")
    model = loaded_strictly(transformers.SiglipModel, tmp_path / "out")
    theirs = model(
        input_ids=torch.tensor(TOKENS),
        pixel_values=torch.tensor(IMAGES.transpose(0, 3, 1, 2)),
    )

    def similarities(params):
        images, texts, scale, bias = module.apply({"params": params}, IMAGES, TOKENS)
        return images @ texts.T * jnp.exp(scale) + bias

    close(theirs.logits_per_image, similarities(params))
    same_gradients(model, theirs.logits_per_image, params, similarities, config)
    model.save_pretrained(tmp_path / "theirs")
    again, loaded = convert.load("siglip-hf", tmp_path / "theirs")
    assert again.config == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
