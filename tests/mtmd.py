"""llama.cpp's own eyes: what its multimodal library (tools/mtmd) makes of an image."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_CALLBACKS: list[Callable[..., None]] = []  # ctypes needs them to stay alive
IMAGE = 1
"""mtmd's number of a chunk that is an image."""
BYTES = 3 + 256
"""Tokens of the smallest vocabulary: three with a meaning, and single bytes."""


def write_vocabulary(path: Path) -> Path:
    """A GGUF file with a vocabulary alone: mtmd wants one for what it writes around images."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    _add_vocabulary(writer, BYTES)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def add_vocabulary(source: Path, path: Path, size: int) -> Path:
    """A GGUF file once more, with a vocabulary of so many tokens."""
    import gguf
    from common import finish_gguf

    reader = gguf.GGUFReader(source)
    named = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(path, named)
    for key, field in reader.fields.items():
        if key.startswith(("GGUF.", "tokenizer.", "general.architecture")):
            continue
        if field.types[0] is gguf.GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        else:
            writer.add_key_value(key, field.contents(), field.types[0])
    _add_vocabulary(writer, size)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    return finish_gguf(writer, path)


def _add_vocabulary(writer: Any, size: int) -> None:
    """Bytes, and behind them tokens that are not used."""
    import gguf

    single, unused = [f"<0x{byte:02X}>" for byte in range(256)], range(size - BYTES)
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.UNUSED for _ in unused]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *single, *(f"<{n}>" for n in unused)])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types(kinds)


@contextmanager
def opened(model: Path, mmproj: Path, *, vocabulary: bool) -> Iterator[tuple[Any, Any]]:
    """A language model, or its vocabulary alone, and mtmd's context for a vision part."""
    import llama_cpp
    from llama_cpp import mtmd_cpp as mtmd

    _silence(mtmd)
    llama_cpp.llama_backend_init()
    settings = llama_cpp.llama_model_default_params()
    settings.vocab_only = vocabulary
    text = llama_cpp.llama_model_load_from_file(str(model).encode(), settings)
    assert text
    params = mtmd.mtmd_context_params_default()
    params.use_gpu, params.warmup, params.n_threads = False, False, 1
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = mtmd.mtmd_init_from_file(str(mmproj).encode(), text, params)
    assert context, f"mtmd does not read {mmproj}"
    try:
        yield text, context
    finally:
        mtmd.mtmd_free(context)
        llama_cpp.llama_model_free(text)


@contextmanager
def chunks_of(context: Any, words: str, image: np.ndarray) -> Iterator[Any]:
    """A text with an image at its marker, cut into chunks."""
    from llama_cpp import mtmd_cpp as mtmd

    pixels = np.ascontiguousarray(image).tobytes()
    data = (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels)
    bitmap = mtmd.mtmd_bitmap_init(image.shape[1], image.shape[0], data)
    chunks = mtmd.mtmd_input_chunks_init()
    marked = words.encode().replace(b"IMAGE", mtmd.mtmd_default_marker())
    text = mtmd.mtmd_input_text(marked, len(marked), False, True)
    bitmaps = (ctypes.c_void_p * 1)(bitmap)
    try:
        assert mtmd.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, 1) == 0
        yield chunks
    finally:
        mtmd.mtmd_input_chunks_free(chunks)
        mtmd.mtmd_bitmap_free(bitmap)


def llama_sees(mmproj: Path, vocabulary: Path, image: np.ndarray, width: int) -> np.ndarray:
    """What llama.cpp makes of an image.

    Args:
        vocabulary: of `write_vocabulary`.
        image: uint8 [height, width, 3].
        width: of an embedding.

    Returns:
        float32 [tokens, width], of every piece that the image is cut into.
    """
    from llama_cpp import mtmd_cpp as mtmd

    found = []
    with (
        opened(vocabulary, mmproj, vocabulary=True) as (_, context),
        chunks_of(context, "IMAGE", image) as chunks,
    ):
        for number in range(mtmd.mtmd_input_chunks_size(chunks)):
            chunk = mtmd.mtmd_input_chunks_get(chunks, number)
            if mtmd.mtmd_input_chunk_get_type(chunk) == IMAGE:
                assert mtmd.mtmd_encode_chunk(context, chunk) == 0
                rows = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
                output = mtmd.mtmd_get_output_embd(context)
                found.append(np.ctypeslib.as_array(output, shape=(rows, width)).copy())
    return np.concatenate(found)


def llama_answers(
    model: Path, mmproj: Path, image: np.ndarray, words: str, vocabulary: int
) -> tuple[list[int], list[bool], np.ndarray]:
    """What llama.cpp says to a text with an image in it, by both files.

    Args:
        model: a file with a vocabulary.
        words: with IMAGE where the image is.
        vocabulary: how many tokens there are.

    Returns:
        Tokens of the text, 0 where the image is; which are the image's; the last token's logits.
    """
    import llama_cpp
    from llama_cpp import mtmd_cpp as mtmd

    tokens: list[int] = []
    seen: list[bool] = []
    with (
        opened(model, mmproj, vocabulary=False) as (text, context),
        chunks_of(context, words, image) as chunks,
    ):
        for number in range(mtmd.mtmd_input_chunks_size(chunks)):
            chunk = mtmd.mtmd_input_chunks_get(chunks, number)
            count = ctypes.c_size_t(mtmd.mtmd_input_chunk_get_n_tokens(chunk))
            is_image = mtmd.mtmd_input_chunk_get_type(chunk) == IMAGE
            if is_image:
                tokens += [0] * count.value
            else:
                said = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
                tokens += said[: count.value]
            seen += [is_image] * count.value
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = 512
        settings.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
        decoder = llama_cpp.llama_init_from_model(text, settings)
        past = ctypes.byref(ctypes.c_int32())
        assert mtmd.mtmd_helper_eval_chunks(context, decoder, chunks, 0, 0, 512, True, past) == 0
        last = llama_cpp.llama_get_logits_ith(decoder, -1)
        logits = np.ctypeslib.as_array(last, shape=(vocabulary,)).copy()
        llama_cpp.llama_free(decoder)
    return tokens, seen, logits


def _silence(mtmd: Any) -> None:
    """Keep its log from standard error."""
    from common import silence_llama

    silence_llama()
    if not _CALLBACKS:
        import llama_cpp

        @llama_cpp.llama_log_callback
        def drop(level: int, text: bytes, data: ctypes.c_void_p) -> None:
            pass

        _CALLBACKS.append(drop)
        mtmd.mtmd_log_set(drop, ctypes.c_void_p(0))
        mtmd.mtmd_helper_log_set(drop, ctypes.c_void_p(0))
