"""A store's folder made by hand, with a tokenizer of bytes: what the builder works on."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from aicockpit.workspace import blobs
from aicockpit.workspace.builds import ModelSpec, Snapshot
from aicockpit.workspace.manifest import File

LIBRARY = {
    "lib/shapes.py": "class Circle:\n    def area(self, scale: float) -> float:\n        return 3\n",
    "lib/tools.py": "from lib.shapes import Circle\n\n\ndef measure(one: Circle) -> float:\n    return one.area(1)\n",
    "app.py": "from lib.tools import measure\nfrom lib.shapes import Circle\n\nprint(measure(Circle()))\n",
    "README.md": "# A library of shapes\n",
}


class Tree:
    """A store's folder by hand: blobs, a snapshot of them, and a model's folder with a tokenizer of bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model = folder / "store", folder / "model"
        self.files: dict[str, File] = {}
        self.blobs = blobs.Blobs(self.folder / "blobs")
        self.model.mkdir()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE(vocab={one: at for at, one in enumerate(alphabet)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(
            ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"]
        )
        tokenizer.save(str(self.model / "tokenizer.json"))
        self.tokenizer = tokenizer
        self.spec = ModelSpec("bytes", self.model)
        self.tags = 0

    def write(self, files: dict[str, str]) -> Snapshot:
        for path, text in files.items():
            data = text.encode()
            content = blobs.digest(data)
            self.blobs.publish(self.blobs.stage([(content, data)]))
            self.files[path] = File(path, content, len(data), 1)
        self.tags += 1
        return Snapshot(f"tree/{self.tags}", "shapes", dict(self.files))

    def text(self, tokens: tuple[int, ...]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))
