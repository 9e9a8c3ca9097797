"""The four named prompt templates.  Pure.

Each is a format string with the fields {prompt} and, most of them, {system_prompt}.  The texts are
those of cog-vllm's prompt_templates.py, because predictions must not change with the program.
"""

from collections.abc import Mapping
from types import MappingProxyType

COMPLETION = "<s>{prompt}"

LLAMA_2_INSTRUCT = "<s>[INST] <<SYS>>\n{system_prompt}\n<</SYS>>\n\n{prompt} [/INST]"

LLAMA_3_INSTRUCT = (
    "<s><|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "{system_prompt}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
    "{prompt}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)

MISTRAL_INSTRUCT = "<s>[INST] {system_prompt} {prompt} [/INST]"

NAMED: Mapping[str, str] = MappingProxyType(
    {
        "COMPLETION": COMPLETION,
        "LLAMA_2_INSTRUCT": LLAMA_2_INSTRUCT,
        "LLAMA_3_INSTRUCT": LLAMA_3_INSTRUCT,
        "MISTRAL_INSTRUCT": MISTRAL_INSTRUCT,
    }
)
