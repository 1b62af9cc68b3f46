"""Classes that only one side has: llama.cpp, which then has a converter of its own, or
transformers, whose models llama.cpp does not run."""

LLAMA_CPP_ALONE = frozenset(
    (
        *("ArcticForCausalLM", "BaichuanForCausalLM", "BailingMoeForCausalLM"),
        *("BailingMoeV2ForCausalLM", "BailingMoeV3ForCausalLM", "ChatGLMModel"),
        *("CodeShellForCausalLM", "DeciLMForCausalLM", "DeepseekForCausalLM", "ExaoneForCausalLM"),
        *("InternLM2ForCausalLM", "InternLM3ForCausalLM", "JinaBertModel", "JinaBertForMaskedLM"),
        *("KimiK3ForConditionalGeneration", "LLaDAModelLM", "MiniCPMForCausalLM"),
        *("NemotronHPuzzleForCausalLM", "OpenELMForCausalLM", "OrionForCausalLM"),
        *("PLMForCausalLM", "PlamoForCausalLM", "Plamo2ForCausalLM", "Plamo3ForCausalLM"),
        *("QWenLMHeadModel", "Rwkv6ForCausalLM", "RWKV7ForCausalLM", "Rwkv7ForCausalLM"),
        *("SmallThinkerForCausalLM", "Step3p5ForCausalLM", "XverseForCausalLM"),
    )
)
"""Those whose code comes with the checkpoint, or nowhere."""

TRANSFORMERS_ALONE = frozenset(
    (
        *("MPNetModel", "MPNetForMaskedLM", "MPNetForSequenceClassification"),
        *("JinaEmbeddingsV3Model", "InklingForCausalLM", "InklingForConditionalGeneration"),
        *("Zamba2ForCausalLM", "ZambaForCausalLM", "RecurrentGemmaForCausalLM"),
        *("CwmForCausalLM", "FlexOlmoForCausalLM", "HeliumForCausalLM", "LongcatFlashForCausalLM"),
        *("NanoChatForCausalLM", "OlmoHybridForCausalLM", "OPTForCausalLM", "GPTJForCausalLM"),
        *("GPTNeoForCausalLM", "VaultGemmaForCausalLM", "xLSTMForCausalLM", "JetMoeForCausalLM"),
    )
)


def why_refused(name: str) -> tuple[str, str] | None:
    """What is to be said of a class that one side lacks, and a hint; None of others."""
    if name in LLAMA_CPP_ALONE:
        return (
            f"{name} is not in transformers, so that nothing could be compared with it",
            "llama.cpp's own convert_hf_to_gguf.py knows it; the file can then be quantized here",
        )
    if name in TRANSFORMERS_ALONE:
        return (
            f"llama.cpp does not run {name}: there is no GGUF for it",
            "transformers alone has this class",
        )
    return None
