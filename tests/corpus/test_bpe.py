"""Learning byte pairs: as tiktoken's educational trainer, only faster."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tiktoken._educational import SimpleBytePairEncoding, bpe_train

from gptc.corpus.bpe import train
from gptc.errors import InputError
from gptc.runtime.tokenizer import PATTERN, byte_pairs
from gptc.runtime.vocabulary import read_vocabulary, write_vocabulary


def sample(seed: int, words: int) -> str:
    """Words over few letters, so that many pairs are equally common."""
    rng = random.Random(seed)
    return "".join(rng.choice(" \n'.") * rng.randint(0, 2) + rng.choice("aabé1") * rng.randint(1, 9) +
                   rng.choice("xyz") * rng.randint(0, 5) for _ in range(words))  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_the_merges_of_tiktoken(seed: int) -> None:
    text = sample(seed, 150 + 50 * seed)
    count = 300 + 10 * seed
    theirs = bpe_train(text, count, PATTERN, visualise=None)
    ours = train([text], count + 1)
    assert list(ours.tokens[:-1]) == sorted(theirs, key=theirs.__getitem__)
    assert ours.end_of_text == count
    encoding = byte_pairs("learnt", ours)
    slow = SimpleBytePairEncoding(pat_str=PATTERN, mergeable_ranks=theirs)
    assert encoding.encode(text.encode()).tolist() == slow.encode(text, visualise=None)
    assert encoding.decode(encoding.encode(text.encode()).tolist()) == text.encode()


def test_it_is_repeatable_and_loads_in_tiktoken(tmp_path: Path) -> None:
    from tiktoken.load import load_tiktoken_bpe

    text = Path(__file__).read_text()
    learnt = train([text[:2000], text[2000:]], 400)
    assert learnt == train([text[:2000], text[2000:]], 400)
    write_vocabulary(tmp_path / "t.tiktoken", learnt)
    assert read_vocabulary(tmp_path / "t.tiktoken") == learnt
    assert load_tiktoken_bpe(str(tmp_path / "t.tiktoken")) == learnt.ranks
    assert any(len(token) > 4 for token in learnt.tokens[256:-1])


def test_no_token_is_longer_than_a_file_can_say() -> None:
    learnt = train(["=" * 5000 + " a b a b"], 256 + 10)
    assert max(map(len, learnt.tokens)) <= 255


def test_vocabularies_that_cannot_be() -> None:
    with pytest.raises(InputError, match="at least 257"):
        train(["text"], 256)
    with pytest.raises(InputError, match=r"the text gives 261 tokens; 300 were asked for"):
        train(["text text"], 300)
    assert len(train([""], 257).tokens) == 257
