"""OpenVINO GenAI reads Q8_0 and Q4_0 files, and goes on as llama.cpp does."""

from pathlib import Path

import pytest
from packages import smollm2_gguf

from qconvert.checkpoint import open_checkpoint
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.run.outputs import write_outputs

genai = pytest.importorskip("openvino_genai")
llama_cpp = pytest.importorskip("llama_cpp")

PROMPT, TOKENS = "1, 2, 3, 4, 5, 6, 7,", 6
"""What is to follow is sure, whatever rounds inputs."""


@pytest.mark.slow
@pytest.mark.parametrize("type_", ["q8_0", "q4_0"])
def test_it_goes_on_as_llama_cpp_does(type_: str, tmp_path: Path) -> None:
    path = tmp_path / f"{type_}.gguf"
    plan = make_plan(open_model(open_checkpoint(str(smollm2_gguf()))), Recipe(type_, path))
    write_outputs([plan], 1, Silent())
    llama = llama_cpp.Llama(str(path), n_ctx=64, verbose=False)
    made = llama.create_completion(PROMPT, max_tokens=TOKENS, temperature=0.0)
    pipeline = genai.LLMPipeline(str(path), "CPU")
    settings = genai.GenerationConfig(max_new_tokens=TOKENS)
    settings.apply_chat_template = False
    found = str(pipeline.generate(PROMPT, settings))
    assert found == made["choices"][0]["text"]
    assert found.strip()
