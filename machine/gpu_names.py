"""Which card is meant: the names that drivers, clouds and people give to it against those of our table."""

import re
from collections.abc import Mapping

# Said or not, it is the same card.
NOISE = {"nvidia", "corporation", "geforce", "tesla", "gpu", "graphics", "card"} | {
    *("blackwell", "generation", "edition", "workstation", "server", "founders"),
}
# May be said of a card whose name in the table does without, and tells two apart where it does not.
FORM = re.compile(r"pcie|sxm\d?|hbm\d?e?|gddr\d?x?")
MIG = re.compile(r"\bmig[ _-]*(\d+)g\.(\d+)gb\S*", re.IGNORECASE)


def find(said: str, memory: Mapping[str, float]) -> list[str]:
    """The names that `said` can mean, of the table's `memory`: name → GiB. Of cards that differ in memory alone, the smallest.

    None where it is another card: "RTX 4090 Laptop GPU" is no RTX 4090, and "RTX 4060 Ti 8GB" none with 16.
    """
    words, gib = parts(said)
    forms = {word for word in words if FORM.fullmatch(word)}
    costs = {}
    for name in memory:
        known, _ = parts(name)
        if words - forms and words - forms <= known and gib in (None, memory[name]):
            costs[name] = len(words ^ known)
    best = [name for name, cost in costs.items() if cost == min(costs.values())]
    if len({frozenset(parts(name)[0]) for name in best}) == 1:
        return [min(best, key=lambda name: memory[name])]
    return best


def mig(said: str) -> tuple[int, int] | None:
    """Compute slices and gigabytes of a MIG instance: 3 and 40 of "NVIDIA A100-SXM4-80GB MIG 3g.40gb"; None of a whole card."""
    found = MIG.search(said)
    return (int(found[1]), int(found[2])) if found else None


def parts(name: str) -> tuple[set[str], int | None]:
    """The words that tell a card from others, and its gigabytes where the name has them."""
    text = re.sub(r"^gpu \d+:|\(uuid:.*", "", name.lower().strip())  # as nvidia-smi -L prints it
    text = re.sub(r"^(device: *)?cuda:\d+ | : (native|cudamallocasync)$", "", text)  # and ComfyUI's log
    text = MIG.sub("", text).replace("_", " ")
    text = re.sub(r"\brtx(?=\w)", "rtx ", text)
    text = re.sub(r"\bpro(?=\d)", "pro ", text)
    size = re.search(r"\b(\d+) ?(?:gb|gib|g)\b", text)
    if size:
        text = text.replace(size[0], " ")
    text = re.sub(r"\b(\d{4})(?=[a-z])", r"\1 ", text)
    return {word for word in re.findall(r"\w+", text) if word not in NOISE}, int(size[1]) if size else None
