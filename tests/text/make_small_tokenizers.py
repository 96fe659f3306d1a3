#!/usr/bin/env python3
"""Writes goldens/small_bytes.json, small_characters.json and small_tokenizers.json: tokenizer.json files of our own, and what Hugging Face `tokenizers` makes
of generated texts with them and with variants of their normalizers, pre-tokenizers, decoders, post-processors and added tokens.

Needs PyPI tokenizers. Both models are trained on the generator's own texts, so that their merges meet all scripts.
"""
import json
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from text_generator import Generator, fnv1a

HERE = Path(__file__).parent
COUNT, GROUP = 400, 20
generator = Generator(json.loads((HERE / "goldens/fragments.json").read_text()))
corpus = [generator.text(i) for i in range(100_000, 101_500)] + generator.fragments * 3 + [" ".join(generator.fragments[:60])] * 5
M = "\u2581"


def train_bytes():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=800, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|end|>", "<|start|>"]))
    return json.loads(t.to_str())


def train_characters():
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    t.train_from_iterator([c for c in corpus if len(c) < 200], trainers.BpeTrainer(
        vocab_size=900, show_progress=False, limit_alphabet=120, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]))
    j = json.loads(t.to_str())
    j["added_tokens"] = [a for a in j["added_tokens"] if a["id"] < 3]
    j["pre_tokenizer"] = None
    j["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": M}, {"type": "Replace", "pattern": {"String": " "}, "content": M}]}
    j["decoder"] = LLAMA_DECODER
    return j


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def normalizers(*steps):
    return {"type": "Sequence", "normalizers": list(steps)}


def bytelevel(prefix=False, regex=True):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def added(id, content, **flags):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False, **flags}


LLAMA_DECODER = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": M}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                                                  {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
METASPACE = {"type": "Metaspace", "replacement": M, "prepend_scheme": "always", "split": True}
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# Ids: those of the vocabulary where it has the token, then the next free ones, which is what `tokenizers` gives whatever the file says.
FLAGS = [("<|end|>", dict(special=True)), ("<|left|>", dict(lstrip=True, special=True)), ("<|right|>", dict(rstrip=True, special=True)),
         ("the", dict(single_word=True)), ("World", dict(normalized=True)), ("==", {}), ("====", dict(special=True)),
         (" \n", dict(normalized=True)), ("日本", dict(normalized=True))]
BOS = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                                {"SpecialToken": {"id": "</s>", "type_id": 0}}],
       "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
       "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}, "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}}

# name, base, what is different
VARIANTS = [
    ("gpt2", "bytes", {}),
    ("gpt2_prefix", "bytes", {"pre_tokenizer": bytelevel(prefix=True)}),
    ("llama3", "bytes", {"pre_tokenizer": sequence(split(LLAMA3), bytelevel(regex=False)), "model": {"ignore_merges": True}}),
    ("gpt4o", "bytes", {"pre_tokenizer": sequence(split(GPT4O, "Removed", True), bytelevel(regex=False))}),
    ("qwen2", "bytes", {"normalizer": {"type": "NFC"}, "pre_tokenizer": sequence(split(LLAMA3.replace("{1,3}", "")), bytelevel(regex=False))}),
    ("starcoder", "bytes", {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, bytelevel())}),
    ("falcon", "bytes", {"pre_tokenizer": sequence({"type": "Punctuation", "behavior": "Contiguous"}, bytelevel(), {"type": "Digits", "individual_digits": False},
                                                   split("[0-9][0-9][0-9]"))}),
    ("bloom", "bytes", {"pre_tokenizer": sequence(split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), bytelevel(regex=False))}),
    ("deepseek", "bytes", {"pre_tokenizer": sequence(split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"),
                                                     {"type": "Digits", "individual_digits": True}, bytelevel(regex=False))}),
    ("lookahead", "bytes", {"pre_tokenizer": sequence(split(r"\p{N}+"), split(r"(?=(\d{3})+(?!\d))"), split(r"\w+\h?|\W"), bytelevel(regex=False))}),
    ("nfkc_lower", "bytes", {"normalizer": normalizers({"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": True, "strip_right": True})}),
    ("nfd_accents", "bytes", {"normalizer": normalizers({"type": "NFD"}, {"type": "StripAccents"}, {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "})}),
    ("flags", "bytes", {"added_tokens": "FLAGS", "normalizer": {"type": "Lowercase"}}),
    ("flags_nfkd", "bytes", {"added_tokens": "FLAGS", "normalizer": {"type": "NFKD"}}),
    ("roberta", "bytes", {"post_processor": {"type": "RobertaProcessing", "sep": ["<|end|>", 0], "cls": ["<|start|>", 1], "trim_offsets": True, "add_prefix_space": False}}),
    ("llama2", "characters", {"post_processor": BOS}),
    ("no_fallback", "characters", {"model": {"byte_fallback": False}}),
    ("no_fuse", "characters", {"model": {"byte_fallback": False, "fuse_unk": False}}),
    ("metaspace", "characters", {"normalizer": None, "pre_tokenizer": METASPACE, "decoder": METASPACE}),
    ("metaspace_first", "characters", {"normalizer": None, "pre_tokenizer": {**METASPACE, "prepend_scheme": "first"}, "decoder": LLAMA_DECODER}),
    ("metaspace_whole", "characters", {"normalizer": None, "pre_tokenizer": {**METASPACE, "prepend_scheme": "never", "split": False}}),
    ("gemma", "characters", {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": M},
                             "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
                             "decoder": {"type": "Sequence", "decoders": LLAMA_DECODER["decoders"][:3]}}),
    ("bert_words", "characters", {"normalizer": None, "pre_tokenizer": {"type": "BertPreTokenizer"}}),
    ("words", "characters", {"normalizer": None, "pre_tokenizer": sequence({"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "MergedWithNext"})}),
    ("delimiter", "characters", {"normalizer": None, "pre_tokenizer": sequence({"type": "CharDelimiterSplit", "delimiter": "e"}, {"type": "Punctuation", "behavior": "MergedWithPrevious"},
                                                                               {"type": "Punctuation", "behavior": "Removed"})}),
]


def patched(base, patch):
    j = json.loads(json.dumps(base))
    for key, value in patch.items():
        if key == "model":
            j["model"].update(value)
        else:
            j[key] = value
    return j


SPECIAL = ["<|end|>a<|start|><|end|>", "a <|left|> b", "a <|right|> \n b", "the theory, the-the the", "hello World world WORLDLY", "a======b", "x \n y \n", "日本語日本",
           "<s>a</s> b<unk>", " <s> <s> x", "<s>", " ", "\n\n", "", "a", "  a  b  ", "<|right|>  <|left|>", "=== ==", "\u2581a \u2581", "e\u0301 \u1e9b\u0323 \uac01 \u1100\u1161\u11a8"]

base = {"bytes": train_bytes(), "characters": train_characters()}
for name, json_ in base.items():
    (HERE / f"goldens/small_{name}.json").write_text(json.dumps(json_, ensure_ascii=True, separators=(",", ":")).replace('],["', '],\n["') + "\n")
texts = SPECIAL + [generator.text(i) for i in range(COUNT - len(SPECIAL))]
vocab = base["bytes"]["model"]["vocab"]
free = iter(range(len(vocab), 2 * len(vocab)))
flags = [added(vocab[content] if content in vocab else next(free), content, **f) for content, f in FLAGS]
variants = []
for name, base_name, patch in VARIANTS:
    patch = {key: flags if value == "FLAGS" else value for key, value in patch.items()}
    t = Tokenizer.from_str(json.dumps(patched(base[base_name], patch)))
    ids = [e.ids for e in t.encode_batch(texts, add_special_tokens=True)]
    t.encode_special_tokens = True
    plain = [e.ids for e in t.encode_batch(texts, add_special_tokens=False)]
    decoded = [t.decode(i, skip_special_tokens=True) for i in ids]
    digest = lambda groups: [f"{fnv1a(n for i in groups[g:g + GROUP] for n in [len(i), *i]):016x}" for g in range(0, COUNT, GROUP)]
    variants.append({"name": name, "base": base_name, "patch": patch, "ids_fnv1a": digest(ids), "plain_fnv1a": digest(plain),
                     # tokenizers decodes a normalized added token to its normalized content; here it is the content itself.
                     "decoded_fnv1a": [] if name == "flags" else digest([d.encode() for d in decoded])})
golden = {"oracle": f"tokenizers {tokenizers.__version__}", "count": COUNT, "group": GROUP, "special": SPECIAL, "variants": variants}
(HERE / "goldens/small_tokenizers.json").write_text(json.dumps(golden, ensure_ascii=True, indent=0, separators=(",", ":")) + "\n")
