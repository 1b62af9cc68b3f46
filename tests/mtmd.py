"""llama.cpp's own eyes: what its multimodal library (tools/mtmd) makes of an image."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_CALLBACKS: list[Callable[..., None]] = []  # ctypes needs them to stay alive
IMAGE = 1
"""mtmd's number of a chunk that is an image."""


def write_vocabulary(path: Path) -> Path:
    """A GGUF file with a vocabulary alone: mtmd wants one for what it writes around images."""
    import gguf

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.BYTE] * 256
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(types)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def llama_sees(mmproj: Path, vocabulary: Path, image: np.ndarray, width: int) -> np.ndarray:
    """What llama.cpp makes of an image.

    Args:
        vocabulary: of `write_vocabulary`.
        image: uint8 [height, width, 3].
        width: of an embedding.

    Returns:
        float32 [tokens, width], of every piece that the image is cut into.
    """
    import llama_cpp
    from llama_cpp import mtmd_cpp as mtmd

    _silence(mtmd)
    llama_cpp.llama_backend_init()
    settings = llama_cpp.llama_model_default_params()
    settings.vocab_only = True
    text = llama_cpp.llama_model_load_from_file(str(vocabulary).encode(), settings)
    assert text
    params = mtmd.mtmd_context_params_default()
    params.use_gpu, params.warmup, params.n_threads = False, False, 1
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = mtmd.mtmd_init_from_file(str(mmproj).encode(), text, params)
    assert context, f"mtmd does not read {mmproj}"
    try:
        return _encode(mtmd, context, image, width)
    finally:
        mtmd.mtmd_free(context)
        llama_cpp.llama_model_free(text)


def _encode(mtmd: Any, context: Any, image: np.ndarray, width: int) -> np.ndarray:
    pixels = np.ascontiguousarray(image).tobytes()
    data = (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels)
    bitmap = mtmd.mtmd_bitmap_init(image.shape[1], image.shape[0], data)
    chunks = mtmd.mtmd_input_chunks_init()
    marker = mtmd.mtmd_default_marker()
    text = mtmd.mtmd_input_text(marker, len(marker), False, True)
    bitmaps = (ctypes.c_void_p * 1)(bitmap)
    assert mtmd.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, 1) == 0
    found = []
    for number in range(mtmd.mtmd_input_chunks_size(chunks)):
        chunk = mtmd.mtmd_input_chunks_get(chunks, number)
        if mtmd.mtmd_input_chunk_get_type(chunk) == IMAGE:
            assert mtmd.mtmd_encode_chunk(context, chunk) == 0
            rows = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
            output = mtmd.mtmd_get_output_embd(context)
            found.append(np.ctypeslib.as_array(output, shape=(rows, width)).copy())
    mtmd.mtmd_input_chunks_free(chunks)
    mtmd.mtmd_bitmap_free(bitmap)
    return np.concatenate(found)


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
