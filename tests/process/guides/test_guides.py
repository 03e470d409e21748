"""The blocks of the guides on installing, networks, images, resuming, searching, GPUs and knock-outs."""

from __future__ import annotations

import io
import json
import re
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from stitch_sweep.config.data import DataConfig
from stitch_sweep.config.networks import NetworkConfig
from stitch_sweep.config.reading import read_config
from stitch_sweep.data.loading import load
from tests.support.documents import check_fragments, check_shell, read_blocks, run_page
from tests.support.paths import ROOT

pytestmark = pytest.mark.timeout(1800)

GUIDES = ROOT / "docs/guides"
IMAGES = {"image_size: 16}": "image_size: 8, train_images: 400, test_images: 200}"}
SMALLER = {"width: 8": "width: 4", "pretraining: {recipe: fast}": "pretraining: {epochs: 2}"}
PLAIN = {"pairs:": "tracking: {enabled: false}\nreport: never\npairs:"}
"""Disables what other tests cover."""


def run_guide(name: str, folder: Path, **options: Any) -> str:
    """Run a guide's blocks, with time for a busy machine; return the output."""
    return run_page(GUIDES / name, folder, timeout=1700, **options)


def cells(page: str, start: str) -> list[str]:
    """Return the texts in backticks that begin with `start`, from the tables of a page."""
    rows = [line for line in (GUIDES / page).read_text().splitlines() if line.startswith("|")]
    return [cell for row in rows for cell in re.findall("`([^`]+)`", row) if cell.startswith(start)]


def results(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "results.parquet")


def png(generator: np.random.Generator) -> bytes:
    """Return an image of noise, 20 x 20 pixels."""
    file = io.BytesIO()
    pixels = generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def test_the_index_lists_every_guide():
    # The tags of mkdocs.yml are those of mkdocs alone.
    navigation = re.findall(r"guides/(\w+\.md)", (ROOT / "mkdocs.yml").read_text())
    linked = re.findall(r"\]\((\w+\.md)\)", (GUIDES / "index.md").read_text())
    assert sorted([*linked, "index.md"]) == sorted(navigation)


def test_installation(tmp_path):
    """Nothing is installed or built here: `tests/process/test_wheel.py` installs a wheel."""
    text = (GUIDES / "installation.md").read_text()
    check_shell(text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = text.partition("## Extras")[2].partition("## Docker")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", extras, re.M)) == set(project["optional-dependencies"])
    targets = re.findall(r"make (?:\w+=\S+ )?([a-z-]+)", text)
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in targets)
    dockerfile = (ROOT / "user.Dockerfile").read_text()
    assert all(f"ARG {name}=" in dockerfile for name in re.findall(r"--build-arg (\w+)=", text))
    assert "WORKDIR /work" in dockerfile
    assert 'ENTRYPOINT ["stitch-sweep"]' in dockerfile
    skip = ["make", "source", "docker build", "docker run"]
    printed = run_guide("installation.md", tmp_path, skip=skip)
    assert project["version"] in printed


def test_external_networks(tmp_path):
    printed = run_guide(
        "external_networks.md",
        tmp_path,
        replace={**SMALLER, "size: 8}": "size: 8, train_images: 400}"},
    )
    text = (GUIDES / "external_networks.md").read_text()
    (table,) = (block.code for block in read_blocks(text) if not block.language)
    assert table in printed
    assert "receiver_accuracy" in printed


def test_the_entries_of_other_networks_are_valid():
    entries = [yaml.safe_load(cell) for cell in cells("external_networks.md", "{name")]
    sources = [NetworkConfig.model_validate(entry).source for entry in entries]
    assert sources == ["torchvision", "torchvision", "timm", "torchvision", "family"]
    (key, prefix) = (yaml.safe_load(cell) for cell in cells("external_networks.md", "weights_"))
    NetworkConfig.model_validate(entries[0] | key | prefix)


def test_own_images(tmp_path):
    generator = np.random.default_rng(0)
    for split, count in {"train": 40, "test": 10}.items():
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                (folder / f"{k:04}.png").write_bytes(png(generator))
    printed = run_guide(
        "data.md",
        tmp_path,
        skip=["apt-get", "make ffcv"],
        before=f"mkdir my && mv '{tmp_path}/photos' my/",
    )
    assert re.search(r"networks to train +2", printed)
    assert re.search(r"^[01]\.\d+$", printed, re.M), "the accuracy of the stitch in memory"


def test_the_sections_of_other_formats_are_read(tmp_path):
    """Data sets that would be downloaded are only parsed."""
    generator = np.random.default_rng(0)
    counts = {"train": 40, "test": 12}
    pixels = {s: generator.integers(0, 256, (n, 8, 8), dtype=np.uint8) for s, n in counts.items()}
    labels = {split: np.arange(count) % 2 for split, count in counts.items()}
    np.savez(
        tmp_path / "arrays.npz",
        **{f"x_{split}": values for split, values in pixels.items()},
        **{f"y_{split}": values for split, values in labels.items()},
    )
    (tmp_path / "parquet").mkdir()
    (tmp_path / "archives").mkdir()
    for split, count in counts.items():
        images = [png(generator) for _ in range(count)]
        table = pd.DataFrame({"image": [{"bytes": i, "path": None} for i in images]})
        table["label"] = labels[split]
        table.to_parquet(tmp_path / f"parquet/{split}-00000-of-00001.parquet")
        with tarfile.open(tmp_path / f"archives/{split}.tar", "w") as archive:
            for k, image in enumerate(images):
                for key, content in {"png": image, "cls": str(k % 2).encode()}.items():
                    entry = tarfile.TarInfo(f"{k:04}.{key}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    sections = [yaml.safe_load(cell)["data"] for cell in cells("data.md", "data:")]
    read = []
    for section in sections:
        section.pop("source", None)  # the reader of a whole file handles this key
        config = DataConfig.model_validate(section)
        if (tmp_path / section["path"]).exists():
            options = section | {"path": str(tmp_path / section["path"])}
            assert len(load(DataConfig.model_validate(options)).test) == counts["test"]
            read.append(config.name)
    assert read == ["parquet", "webdataset", "numpy"]
    assert len(sections) == 6


def test_resume(tmp_path):
    """Nothing is interrupted here: tests of sweeps and of faults do that. One stitch is lost."""
    retrain = "stitch-sweep sweep my/config.yml --resume --retrain-stitches\n"
    lose = 'rm "$(ls my/stitches/*.safetensors | head -n 1)"\n'
    replace = {**IMAGES, **SMALLER, **PLAIN, retrain: lose + retrain}
    printed = run_guide("resume.md", tmp_path, replace=replace)
    folder = tmp_path / "work/my"
    trials = results(folder)
    assert len(trials) == 4 + 2
    assert set(trials["status"]) == {"finished"}
    assert len(list((folder / "stitches").glob("*.safetensors"))) == len(trials)
    assert "6 of 6 trials ended" in printed


def test_search(tmp_path):
    run_guide(
        "search.md", tmp_path, replace={**IMAGES, **SMALLER, **PLAIN, "samples: 16": "samples: 8"}
    )
    folder = tmp_path / "work/my"
    assert len(results(folder)) == 2 * 12
    stopped = results(folder / "asha")
    assert len(stopped) == 2 * 8
    assert "stopped" in set(stopped["status"])
    assert len(results(folder / "stop")) <= 2 * 12
    assert (folder / "pareto/pareto.csv").is_file()
    assert list((folder / "pareto/figures").glob("pareto__*.png"))


def test_gpu(tmp_path):
    """The configurations are read; a GPU is not needed."""
    text = (GUIDES / "gpu.md").read_text()
    check_shell(text)
    (config,) = (block for block in read_blocks(text) if block.file)
    (tmp_path / "config.yml").write_text(config.code)
    assert read_config(tmp_path / "config.yml").resources.gpu == "auto"
    assert check_fragments(text, tmp_path) == 1
    for key in ("resources.gpu", "data.loader", "resources.cache_gb", "resources.pack"):
        assert f"`{key}" in text


def test_knock_out(tmp_path):
    replace = {**IMAGES, **SMALLER, "knock_out:\n": "tracking: {enabled: false}\nknock_out:\n"}
    printed = run_guide("knock_out.md", tmp_path, replace=replace)
    folder = tmp_path / "work/my"
    trials = results(folder)
    # a: layers 1 to 4 one at a time, and three runs of two; b: layers 2 and 3.
    assert len(trials) == 4 + 3 + 2
    assert (trials["sender"] == trials["receiver"]).all()
    assert "a, layers knocked out" in printed
    assert len(list((folder / "matrices").glob("*knock-out*.csv"))) == 2
    assert (folder / "report.html").is_file()


def test_assembly(tmp_path):
    run_guide("assembly.md", tmp_path, replace={**IMAGES, **SMALLER, "epochs: 5": "epochs: 2"})
    folder = tmp_path / "work/my"
    summary = json.loads((folder / "summary.json").read_text())
    assert {"receiver_accuracy", "penalty"} <= set(summary)
    assert len(list((folder / "parts").glob("*.safetensors"))) == 2
    for name in ("traj.pkl", "traj.parquet", "predictions.parquet"):
        assert (folder / name).is_file()


@pytest.mark.parametrize("part", ["training: {recipe: fast, frozen: exact}", "order: in_turn"])
def test_the_settings_of_an_assembly_are_valid(tmp_path, part):
    text = (GUIDES / "assembly.md").read_text()
    assert f"`{part}`" in text
    (config,) = (block for block in read_blocks(text) if block.file)
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(config.code) | yaml.safe_load(part)))
    read_config(path)
