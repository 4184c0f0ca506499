"""Names of ids: of a run, of a file, as published; what does not fit is refused."""

import dataclasses
import json

import pytest

from data_pipelines.tokenizers.chameleon import ChameleonVocabulary, train_vocabulary
from tests.convert.test_exchange import DECODER, VQ, WIDE, module_of, random_params
from unitoken_jax import convert
from unitoken_jax.convert.tensors import WeightsError
from unitoken_jax.convert.vocabulary import (
    codes_of,
    known_vocabulary,
    read_vocabulary,
)
from unitoken_jax.models.unitoken import UniTokenConfig


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tokenizer.json"
    path.write_text(train_vocabulary(["a red cat 12"] * 9, VQ.n_embed, 270, 4))
    return path


def described(path):
    return json.loads((path / "config.json").read_text())


def test_a_tokenizer_gets_a_name_for_pictures(tokenizer):
    ours, found = ChameleonVocabulary.from_file(tokenizer), read_vocabulary(tokenizer)
    assert list(found.codes.values()) == ours.code_ids.tolist()
    assert found.ids["<image>"] == 3
    assert "<unk>" not in found.ids
    assert found.special == {
        "bos_token_id": ours.bos,
        "eos_token_id": ours.end,
        "pad_token_id": ours.pad,
    }
    files = found.files()
    written = json.loads(files["tokenizer.json"])
    assert written["model"]["vocab"]["<image>"] == 3
    assert {"id": 3, "content": "<image>"}.items() <= written["added_tokens"][3].items()
    roles = json.loads(files["tokenizer_config.json"])
    assert roles["eos_token"] == roles["sep_token"] == "<reserved08706>"


def test_a_run_s_names_go_with_its_exports(tokenizer, tmp_path):
    ours = ChameleonVocabulary.from_file(tokenizer)
    config = UniTokenConfig(
        dataclasses.replace(DECODER, vocab_size=ours.size),
        None,
        first_image_code=4,
        last_image_code=3 + VQ.n_embed,
    )
    stage = tmp_path / "run" / "stage2"
    convert.save("jax", module_of(config), random_params(config), stage)
    convert.save("jax", module_of(VQ), random_params(VQ), tmp_path / "run/tokenizer")
    data = tmp_path / "data"
    data.mkdir()
    (data / "tokenizer.json").write_bytes(tokenizer.read_bytes())

    def export(name, **options):
        convert.convert("jax", "chameleon-hf", stage, tmp_path / name, **options)
        return described(tmp_path / name)

    with pytest.raises(WeightsError, match=r"names 64 and no <image>.*--vocabulary"):
        export("x", image_tokenizer=tmp_path / "run/tokenizer")
    with pytest.raises(WeightsError, match="the image tokenizer is a UniToken"):
        export("x", image_tokenizer=stage, vocabulary=tokenizer)
    given = export("given", vocabulary=tokenizer)
    (tmp_path / "run/config.json").write_text(json.dumps({"data_dir": str(data)}))
    found = export("chain", image_tokenizer=tmp_path / "run/tokenizer")
    assert found["vocabulary_map"] == given["vocabulary_map"]
    assert len(found["vocabulary_map"]) == ours.size
    assert found["eos_token_id"] == ours.end
    assert found["vq_config"]["num_embeddings"] == VQ.n_embed
    generation = json.loads((tmp_path / "chain/generation_config.json").read_text())
    assert generation["eos_token_id"] == ours.end
    # Through our own form and back the tokenizer stays.
    convert.convert("chameleon-hf", "jax", tmp_path / "given", tmp_path / "again")
    convert.convert("jax", "lumina", tmp_path / "again", tmp_path / "lumina")
    for name in ("again", "lumina"):
        kept = read_vocabulary(tmp_path / name / "tokenizer.json")
        assert dict(kept.ids) == given["vocabulary_map"]


def test_names_that_do_not_fit_are_refused(tokenizer, tmp_path):
    small = dataclasses.replace(WIDE, vocab_size=60)

    def save(config, **options):
        params = random_params(config)
        path = tmp_path / "x"
        convert.save("chameleon-hf", module_of(config), params, path, **options)

    with pytest.raises(WeightsError, match=r"none of the decoder's vocab_size=60"):
        save(small, vocabulary=tokenizer)
    with pytest.raises(WeightsError, match=r"vocab_size=60"):
        save(small, published={"vocabulary_map": {"<image>": 8711}})
    config = UniTokenConfig(
        dataclasses.replace(DECODER, vocab_size=500), None, last_image_code=66
    )
    with pytest.raises(WeightsError, match=r"at 4..67, and the model has first.*=66"):
        save(config, vocabulary=tokenizer)
    with pytest.raises(WeightsError, match=r"named.json cannot be read"):
        save(small, vocabulary=tmp_path / "named.json")
    assert not list(tmp_path.iterdir())


def test_without_names_no_picture_is_promised(tmp_path, caplog):
    convert.save("lumina", module_of(WIDE), random_params(WIDE), tmp_path / "x")
    assert described(tmp_path / "x")["vocabulary_map"] == {}
    assert "cannot be shown a picture" in caplog.text


def test_the_published_names():
    found = known_vocabulary(65_536, {}, (4, 8195))
    assert found is not None
    assert codes_of(found.ids) == {code: 4 + code for code in range(8192)}
    assert found.ids["IMGIMGIBJBZ"] == 8195
    assert found.ids["<image>"] == 8711
    assert found.special["eos_token_id"] == 8710
    assert known_vocabulary(65_536, {}, (5, 9)).where == "the model's image codes"  # pyright: ignore[reportOptionalMemberAccess]
    assert known_vocabulary(100, {}, None) is None


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"model": {"vocab": {"a": "b"}}}', '{"model": {"vocab": 3}}'],
)
def test_files_that_are_no_tokenizer(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(WeightsError, match=r"tokenizer\.json"):
        read_vocabulary(tmp_path / "tokenizer.json")


def test_pieces_in_a_list(tmp_path):
    content = {"model": {"vocab": [["<s>", 0.0], ["a", -1.5]]}, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert dict(read_vocabulary(tmp_path / "tokenizer.json").ids) == {"<s>": 0, "a": 1}
