"""The data type for a model on a GPU."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.engine.dtype import FLOAT16_REFUSED, GpuArch, choose_dtype, read_arch_list
from servekit.errors.tree import SettingInvalid

T4 = GpuArch(7, 5)
L4 = GpuArch(8, 9)


@pytest.mark.parametrize(
    ("family", "arch", "dtype"),
    [
        ("gemma3_text", L4, "bfloat16"),
        ("llama", L4, "bfloat16"),
        ("gemma3_text", T4, "float32"),
        ("llama", T4, "float16"),
        ("llama", None, "auto"),
        (None, T4, "auto"),
        (None, L4, "bfloat16"),
    ],
)
def test_dtype_follows_from_family_and_gpu(family: str, arch: GpuArch, dtype: str) -> None:
    """bfloat16 where the GPU has it; without it, float16 unless the family overflows in it."""
    assert choose_dtype(family, arch) == dtype


@given(
    family=st.sampled_from(sorted(FLOAT16_REFUSED)),
    arch=st.builds(GpuArch, st.integers(5, 12), st.integers(0, 9)),
)
def test_a_family_that_overflows_never_gets_float16(family: str, arch: GpuArch) -> None:
    """vLLM would refuse to start, on any GPU."""
    assert choose_dtype(family, arch) in ("bfloat16", "float32")


@pytest.mark.parametrize(
    ("text", "archs"),
    [
        ("8.9", (L4,)),
        ("7.5;8.9", (T4, L4)),
        ("7.5 8.9+PTX", (T4, L4)),
        ("9.0a", (GpuArch(9, 0),)),
        ("", ()),
    ],
)
def test_arch_list_is_read_as_torch_writes_it(text: str, archs: tuple[GpuArch, ...]) -> None:
    """Semicolons or blanks, suffixes and +PTX."""
    assert read_arch_list(text) == archs


@pytest.mark.parametrize("text", ["8", "sm_89", "Ampere", "8.9;x"])
def test_other_arch_is_refused(text: str) -> None:
    """The message shows what was written and what to write."""
    with pytest.raises(SettingInvalid, match=r"write compute capabilities such as 8\.9"):
        read_arch_list(text)


def test_archs_are_ordered_by_number() -> None:
    """10.0 is newer than 9.0, which a comparison of texts would deny."""
    assert GpuArch(9, 0) < GpuArch(10, 0)
    assert str(GpuArch(10, 0)) == "10.0"
