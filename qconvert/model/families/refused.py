"""Classes that only one side has: llama.cpp, which then has a converter of its own, or
transformers, whose models llama.cpp does not run; and those that the two compute otherwise."""

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
        *("InklingForCausalLM", "InklingForConditionalGeneration"),
        *("Zamba2ForCausalLM", "ZambaForCausalLM", "RecurrentGemmaForCausalLM"),
        *("CwmForCausalLM", "FlexOlmoForCausalLM", "HeliumForCausalLM", "LongcatFlashForCausalLM"),
        *("NanoChatForCausalLM", "OlmoHybridForCausalLM", "OPTForCausalLM", "GPTJForCausalLM"),
        *("GPTNeoForCausalLM", "VaultGemmaForCausalLM", "xLSTMForCausalLM", "JetMoeForCausalLM"),
    )
)

OTHERWISE = dict.fromkeys(
    ("PhimoeForCausalLM", "PhiMoEForCausalLM"),
    "gives the two best experts weights near one in place of their shares",
)
"""What transformers does in these that llama.cpp does not."""

ELSEWHERE = "types of safetensors (w8a16, w4a16, ...) can be made of it"


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
            f"transformers alone has this class; {ELSEWHERE}",
        )
    if name in OTHERWISE:
        return (
            f"llama.cpp runs {name} in another way: transformers {OTHERWISE[name]}",
            ELSEWHERE,
        )
    return None
