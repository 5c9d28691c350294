"""ggml's tensor types by number, without torch: what a header needs."""

# Name and bytes of a number.
FLOATS = {0: ("F32", 4), 1: ("F16", 2), 30: ("BF16", 2)}
TORCH_NAMES = {0: "float32", 1: "float16", 30: "bfloat16"}  # of the floats' dtypes
# Name, numbers in a block, and bytes of a block.
PACKED = {
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136),
}
NUMBERS = {name: number for number, (name, *_) in {**FLOATS, **PACKED}.items()}


def type_name(number: int) -> str:
    """The name of a type that is none of the above, for a refusal: from the gguf package, where it is installed.

    That takes a second to import, and is no dependency: a header needs the few lines above, which tests compare with it.
    """
    try:
        from gguf import GGMLQuantizationType

        return GGMLQuantizationType(number).name
    except Exception:  # it is not there, does not work, or does not know the type either
        return f"the unknown type {number}"
