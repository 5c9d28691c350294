"""GGUF headers with anything wrong in them."""

from support.broken_gguf import open_broken_files, write_small


def test_ten_thousand_broken_headers(tmp_path):
    """Read or refused in words, each with no more work and memory than a file of a few hundred bytes deserves."""
    original = write_small(tmp_path / "small.gguf")
    cost = open_broken_files(original, tmp_path / "broken.gguf", count=10_000)
    assert cost.refused > 5_000 and cost.calls < 2_000 and cost.memory < 4 << 20
