"""Small vocabularies with the layout of the published one, for tests."""

import io

import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from data_pipelines.tokenizers.chameleon import (
    ChameleonVocabulary,
    code_name,
    train_vocabulary,
)


def chameleon() -> ChameleonVocabulary:
    """The published names at the published ids; text is single bytes from 16384."""
    names = ["<s>", "<pad>", "</s>", "<unk>", *(code_name(i) for i in range(8192))]
    names += ["<eoss>", "<racm3:break>", "<sentinel:0>"]
    names += [f"<reserved{i - 4:05d}>" for i in range(len(names), 16384)]
    names += sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return ChameleonVocabulary(tokenizer, "chameleon")


def small(
    texts: tuple[str, ...] = ("a red heart", "what is this?"),
) -> ChameleonVocabulary:
    """A trained vocabulary of 64 codes and hardly more text than the bytes."""
    text = train_vocabulary(texts, num_codes=64, num_pieces=264, size_tokens=16)
    return ChameleonVocabulary(Tokenizer.from_str(text), "small")


SENTENCES = [
    "a red heart on a blue background",
    "what is this?",
    "two apples",
    "3.14 = π",
]


def llama_model(**changes):
    """A tokenizer.model; pieces of bytes stand behind <unk>, <s> and </s>."""
    written = io.BytesIO()
    options = {
        "model_type": "bpe",
        "vocab_size": 320,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "character_coverage": 1.0,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4), model_writer=written, **options | changes
    )
    return written.getvalue()
