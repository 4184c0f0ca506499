"""Small vocabularies with the layout of the published one, for tests."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from data_pipelines.vocabulary import Vocabulary, code_name, train_vocabulary


def chameleon() -> Vocabulary:
    """The published names at the published ids; text is single bytes from 16384."""
    names = ["<s>", "<pad>", "</s>", "<unk>", *(code_name(i) for i in range(8192))]
    names += ["<eoss>", "<racm3:break>", "<sentinel:0>"]
    names += [f"<reserved{i - 4:05d}>" for i in range(len(names), 16384)]
    names += sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return Vocabulary(tokenizer, "chameleon")


def small(texts: tuple[str, ...] = ("a red heart", "what is this?")) -> Vocabulary:
    """A trained vocabulary of 64 codes and hardly more text than the bytes."""
    text = train_vocabulary(texts, num_codes=64, num_pieces=264, size_tokens=16)
    return Vocabulary(Tokenizer.from_str(text), "small")
