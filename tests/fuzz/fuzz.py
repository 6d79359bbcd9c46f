"""Give a target what atheris thinks of: `python tests/fuzz/fuzz.py TARGET [options of libFuzzer]`.

It begins with `corpus/TARGET/` and the recipes that are shipped, and keeps what is new to it in a
folder of its own. What breaks the target is left beside this file as `found-…`: put that into the
corpus when the fault is mended, and every `make test` tries it again.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).parent
SHIPPED = sorted((HERE.parents[1] / "recipes").glob("*.yaml"))
LONGEST_BYTES = 8192
OPTIONS = (
    f"-max_len={LONGEST_BYTES}",
    "-timeout=10",
    "-rss_limit_mb=2048",
    f"-artifact_prefix={HERE}/found-",
)

WORD = re.compile(rb"[A-Za-z_]{3,30}")


def main(program: str, target: str, *options: str) -> None:
    """Fuzz until libFuzzer's options say that it is enough, or something breaks."""
    with atheris.instrument_imports(include=["recipes", "tracking", "launcher", "yaml"]):
        from fuzz_targets import TARGETS
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        found = shutil.copytree(HERE / "corpus" / target, folder / "found")
        if target == "recipe":
            for recipe in SHIPPED:
                shutil.copy(recipe, found)
        (folder / "words").write_text(dictionary(found))
        words = [program, f"-dict={folder}/words", *OPTIONS, *options, str(found)]
        atheris.Setup(words, TARGETS[target])
        atheris.Fuzz()


def dictionary(corpus: Path) -> str:
    """Words that stand in a corpus, so that they need not be found letter by letter."""
    words = {word for path in corpus.iterdir() for word in WORD.findall(path.read_bytes())}
    return "".join(f'"{word.decode()}"\n' for word in sorted(words))


if __name__ == "__main__":
    main(*sys.argv)
