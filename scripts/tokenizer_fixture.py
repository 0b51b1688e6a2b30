"""Writes a small byte-level BPE and what the `tokenizers` library makes of some texts: `python tokenizer_fixture.py DIR`.

With `--from FOLDER` the vocabulary is that of FOLDER (`vocab.json`, `merges.txt`, `added_tokens.json`) instead of one that is
trained here. Made with tokenizers 0.23.3.
"""

import argparse
import json
import random
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

# The pre-tokenizer of Qwen2 and Qwen3.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>"]
CORPUS = [
    "pick up the red cup and put it on the plate, then close the drawer of the cabinet",
    "<image 1> You are a helpful assistant. Don't move; it's 50% done. The robot's arm wasn't there: we've, I'll, you'd",
    "été élève Straße 杯子を取って 机の上に置く कप उठाओ และวาง ковш взять عربة",
]
TEXTS = CORPUS + [
    "", " ", "  ", "\n", " \n ", "a\n\nb", "a  b", "a \n\n  b\t\tc ", "x\r\ny", "'S 'LL 'x ''", "don't DON'T",
    "12345 1st 2nd", "½ Ⅷ ٣", "hello,world!!\n\n?", "...\n\n...", "e\u0301 \u00e9 \u212b \uac00\u1100\u1161",
    "कि कु", "ไทยๆ", "👍🏽 🤖🤖", "\u00a0x\u3000y\u2028z\u200b", "<img><IMG_CONTEXT><IMG_CONTEXT></img>", "<img", "<|im_start|>user\n",
    "a<|im_end|> b", "_under_score-dash", "\x00\x1f\x7f", "\ufeffbom", "ſ's", "''''s", "tab\tword", "  two", "end  ",
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\npick up the cup<image 1><img><IMG_CONTEXT></img><|im_end|>\n",
]


def build(vocabulary, merges, added):
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in added])
    return tokenizer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--from", dest="source", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.source:
        vocabulary = json.loads((options.source / "vocab.json").read_text())
        added = json.loads((options.source / "added_tokens.json").read_text())
        lines = (options.source / "merges.txt").read_text().split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    else:
        trained = build({}, [], [])
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
        trained.train_from_iterator(CORPUS * 3, trainer)
        model = json.loads(trained.to_str())["model"]
        vocabulary, merges = model["vocab"], [tuple(pair) for pair in model["merges"]]
        added = {name: len(vocabulary) + index for index, name in enumerate(ADDED)}
    tokenizer = build(vocabulary, merges, sorted(added, key=added.get))
    generator = random.Random(1)
    letters = "ab Z9_'-.\n\r\t½é\u0301क杯🤖<>"
    texts = TEXTS + ["".join(generator.choices(letters, k=generator.randint(1, 14))) for _ in range(200)]
    cases = [(text, tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
    (options.out / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (options.out / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    (options.out / "added_tokens.json").write_text(json.dumps(added))
    (options.out / "cases.json").write_text(json.dumps(cases))


main()
