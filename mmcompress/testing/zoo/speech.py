"""Small speech-to-text models: Whisper, which hears one second, with a tokenizer of bytes."""

from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.hf.speech import HFSpeech
from mmcompress.testing.zoo.family import Family, randomized, seeded

FEATURES = {"feature_size": 8, "chunk_length": 1, "n_fft": 400, "hop_length": 320}
"""Eight mel bands, 50 frames in the second."""

END, START, NO_TIMES = 256, 257, 258
SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>", "<|startofprev|>")


def build_whisper_tokenizer() -> WhisperTokenizer:
    """A token for each byte, and Whisper's special ones; with a spelling to normalize."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    vocabulary |= {token: END + index for index, token in enumerate(SPECIAL)}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    tokenizer.english_spelling_normalizer = {"mum": "mom"}
    return tokenizer


def whisper_config(**settings: Any) -> WhisperConfig:
    """32 wide, two blocks in encoder and decoder."""
    sizes = {
        "vocab_size": 264,
        "num_mel_bins": FEATURES["feature_size"],
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_source_positions": 25,
        "max_target_positions": 48,
        "bos_token_id": END,
        "eos_token_id": END,
        "pad_token_id": END,
        "decoder_start_token_id": START,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
    }
    return WhisperConfig(**sizes | settings)


def untouched_whisper(**settings: Any) -> WhisperForConditionalGeneration:
    """transformers' own model, weights drawn large."""
    with seeded():
        model = WhisperForConditionalGeneration(whisper_config(**settings)).eval()
        randomized(model, std=0.2)
    model.generation_config = GenerationConfig(
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=END,
        decoder_start_token_id=START,
        no_timestamps_token_id=NO_TIMES,
        is_multilingual=False,
        return_timestamps=False,
        max_length=48,
    )
    return model


def build_whisper(**settings: Any) -> HFSpeech:
    """`settings` are of its config."""
    model = untouched_whisper(**settings)
    return HFSpeech(model, build_whisper_tokenizer(), features=dict(FEATURES)).eval()


def _whisper(folder: Path) -> Backbone:
    return build_whisper()


FAMILIES = [Family("hf_speech/whisper", _whisper)]
