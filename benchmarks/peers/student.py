"""The student that every server serves, trained once by the project's own pipeline, in the form each one
reads.

`python -m benchmarks.peers.student` makes what is missing, in `student` or `student-synthetic` of the build
folder:

    <folder>/made-of  what recipe and data it is made of; where those change, all of it is made anew
    <folder>/run/     the training run (`student.toml`); a killed one goes on
    <folder>/bundle/  Muster's bundle, with the student admitted to its plans
    <folder>/model/   a Hugging Face folder of a plain BERT classifier, and `onnx/model_int8.onnx`

The classifier says the same as the student: a Hugging Face BERT squeezes [CLS] through a dense layer and tanh
before its linear head. That layer is 1/1024 of the identity here, where tanh is a straight line, and the head
takes the factor back.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.roster import HERE, ROOT
from drills.rig.shop import real_sources
from muster.bundle import Bundle, read_bundle
from muster.products.synthetic import write_synthetic

RECIPE = HERE / "student.toml"
FOLDER = ROOT / ".build" / "peers"
SQUEEZE = 2.0**-10
TOLERANCE = 1e-3
"""Largest difference of scores that float32 and the straight part of tanh may make; scores span some ten
units."""
SYNTHETIC_PRODUCTS = 3000


class StudentFailed(Exception):
    """The student could not be made; the message says what to do."""


@dataclass(frozen=True)
class Student:
    """The student in every form. bundle: Muster's. model: the Hugging Face folder, with ONNX in it. about:
    facts."""

    bundle: Path
    model: Path
    about: dict[str, Any]

    def opened(self) -> Bundle:
        """The bundle, checked."""
        return read_bundle(self.bundle)


def make_student(note: Callable[[str], None], build: Path = FOLDER) -> Student:
    """The student, from what is there or trained now.

    What another recipe or other data made is removed first. Raises: StudentFailed.
    """
    folder, recipe, data = _sources(build)
    bundle, model = folder / "bundle", folder / "model"
    if clear_outdated(folder, fingerprint(recipe, data)):
        note(f"what {folder} held was made of another recipe or other data, and is removed")
    if not (bundle / "manifest.json").is_file():
        note("training the student (many minutes the first time; it goes on where it was interrupted)")
        shutil.rmtree(bundle, ignore_errors=True)
        _run(
            "training.train",
            [
                "--recipe",
                str(recipe),
                "--data",
                str(data),
                "--run",
                str(folder / "run"),
                "--out",
                str(bundle),
            ],
            folder / "training.log",
        )
    about = model / "about.json"
    if not about.is_file():
        note("writing the student as a Hugging Face folder")
        _run("benchmarks.peers.student", ["--convert", str(folder)], folder / "convert.log")
    return Student(bundle, model, json.loads(about.read_text(encoding="utf-8")))


def fingerprint(recipe: Path, data: Path) -> str:
    """Of all that a student is made of: the recipe, and the files of the sets that it names."""
    digest = hashlib.sha256(recipe.read_bytes())
    for one in tomllib.loads(recipe.read_text(encoding="utf-8"))["data"]:
        for path in sorted((data / one["folder"]).glob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    held = hashlib.file_digest(file, "sha256").hexdigest()
                digest.update(f"{one['folder']}/{path.name} {held}\n".encode())
    return digest.hexdigest()


def clear_outdated(folder: Path, wanted: str) -> bool:
    """Remove run, bundle and model that are made of anything else. Returns: whether there was any.

    wanted: a `fingerprint`. The stamp is written before the training begins, so that a run that was killed
    goes on.
    """
    stamp = folder / "made-of"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return False
    outdated = [path for name in ("run", "bundle", "model") if (path := folder / name).is_dir()]
    for path in outdated:
        shutil.rmtree(path)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.write_text(wanted, encoding="utf-8")
    return bool(outdated)


def _sources(build: Path) -> tuple[Path, Path, Path]:
    """Folder, recipe and data: the real sets where all of them are at hand, else a synthetic one."""
    sources = real_sources()
    wanted = [one["folder"] for one in tomllib.loads(RECIPE.read_text(encoding="utf-8"))["data"]]
    if sources and all((sources[0].parent / name).is_dir() for name in wanted):
        return build / "student", RECIPE, sources[0].parent
    folder = build / "student-synthetic"
    data = folder / "data"
    if not (data / "shop").is_dir():
        write_synthetic(data / "shop", products=SYNTHETIC_PRODUCTS, seed=1)
    recipe = folder / "synthetic.toml"
    recipe.write_text(synthetic_recipe(RECIPE.read_text(encoding="utf-8")), encoding="utf-8")
    return folder, recipe, data


def synthetic_recipe(recipe: str) -> str:
    """The recipe with one synthetic set in the place of the real ones."""
    head, data, rest = recipe.partition("[[data]]")
    del data
    after = rest[rest.index("[splits]") :]
    targets = '{ "0.0" = 0.0, "1.0" = 0.3, "2.0" = 0.7, "3.0" = 1.0 }'
    shop = (
        '[[data]]\nname = "shop"\nfolder = "shop"\nrole = "judged"\nlicence = "made up"\n'
        f'source = "synthetic"\ntargets = {targets}\n\n'
    )
    return head + shop + after


def _run(module: str, arguments: list[str], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        # Nothing else of the comparison runs meanwhile.
        "OMP_NUM_THREADS": str(os.cpu_count() or 1),
    }
    with log.open("ab") as output:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            stdout=output,
            stderr=output,
            env=environment,
            cwd=ROOT,
            check=False,
        )
    if done.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        raise StudentFailed(
            f"{module} ended with code {done.returncode}: {lines[-1] if lines else ''} "
            f"(log: {log}); it needs what `make build-all` installs"
        )


def convert(folder: Path) -> dict[str, Any]:
    """Write the student of a finished run as a Hugging Face folder, check it, and put the ONNX file beside
    it.

    Returns: what about.json says. Raises: StudentFailed where the two do not say the same.
    """
    import torch

    from training.models.networks import load_cross

    run, model = folder / "run", folder / "model"
    shutil.rmtree(model, ignore_errors=True)
    cross = load_cross(run / "cross_small.pt")
    if torch.count_nonzero(cross.mix):
        raise StudentFailed("the student's score is more than its head: its recipe must say score = 'head'")
    text = json.loads((folder / "bundle" / "text.json").read_text(encoding="utf-8"))
    limits = {"query": text["query_tokens_max"], "product": text["cross_tokens_max"]}
    write_classifier(cross, run / "prepared" / "tokenizer.json", model)
    gap = largest_gap(cross, model)
    if gap > TOLERANCE:
        raise StudentFailed(f"the Hugging Face folder scores differently by {gap:.6f}, above {TOLERANCE}")
    (model / "onnx").mkdir()
    shutil.copyfile(run / "onnx" / "cross_small.onnx", model / "onnx" / "model_int8.onnx")
    shape = cross.stack.shape
    gate = json.loads((run / "earn" / "report.json").read_text(encoding="utf-8"))["tiers"]["cross_small"]
    calibration = json.loads((run / "calibration.json").read_text(encoding="utf-8"))["plans"]
    about = {
        "layers": shape.layers,
        "width": shape.width,
        "parameters": sum(one.numel() for one in cross.parameters()),
        "tokens_max": limits,
        "product_fields": text["product"]["cross_fields"],
        "largest_gap_of_scores": round(gap, 6),
        "earned": gate["earned"],
        "over_cheaper": gate.get("over_cheaper"),
        "measured_ndcg": {f"{plan['tier']}@{plan['depth']}": plan["measured_ndcg"] for plan in calibration},
    }
    (model / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return about


def write_classifier(cross: Any, tokenizer: Path, out: Path) -> None:
    """A head-only `training.models.networks.CrossEncoder` as the folder of a
    BertForSequenceClassification."""
    import torch
    from safetensors.torch import save_file

    from training.models.networks import BERT_NAMES

    stack, shape = cross.stack, cross.stack.shape
    out.mkdir(parents=True)
    weights = {
        "bert.embeddings.word_embeddings.weight": stack.words.weight,
        "bert.embeddings.position_embeddings.weight": stack.positions.weight,
        # The student gives both texts the first kind; the types only tell them apart.
        "bert.embeddings.token_type_embeddings.weight": stack.kinds.weight[:1].repeat(2, 1),
        "bert.embeddings.LayerNorm.weight": stack.norm.weight,
        "bert.embeddings.LayerNorm.bias": stack.norm.bias,
        "bert.pooler.dense.weight": torch.eye(shape.width) * SQUEEZE,
        "bert.pooler.dense.bias": torch.zeros(shape.width),
        "classifier.weight": cross.head.weight / SQUEEZE,
        "classifier.bias": cross.head.bias,
    }
    for number, layer in enumerate(stack.layers):
        for ours, theirs in BERT_NAMES.items():
            for part in ("weight", "bias"):
                weights[f"bert.encoder.layer.{number}.{theirs}.{part}"] = getattr(getattr(layer, ours), part)
    held = {name: value.detach().to(torch.float32).clone().contiguous() for name, value in weights.items()}
    save_file(held, out / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.inner,
        "hidden_act": "gelu",
        "layer_norm_eps": shape.epsilon,
        "max_position_embeddings": shape.positions,
        "type_vocab_size": 2,
        "vocab_size": shape.vocabulary,
        "pad_token_id": 0,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "torch_dtype": "float32",
    }
    specials = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
    tokens = {f"{name}_token": token for name, token in specials.items()}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape.positions,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        **tokens,
    }
    shutil.copyfile(tokenizer, out / "tokenizer.json")
    for name, value in (
        ("config.json", config),
        ("tokenizer_config.json", settings),
        ("special_tokens_map.json", tokens),
    ):
        (out / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def largest_gap(cross: Any, model: Path) -> float:
    """The largest difference of scores between the student and a Hugging Face folder, over some hundred
    pairs."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForSequenceClassification

    from training.data.batches import Specials, pair_batch

    specials = Specials.of(Tokenizer.from_file(str(model / "tokenizer.json")))
    shape = cross.stack.shape
    classifier = AutoModelForSequenceClassification.from_pretrained(str(model)).eval()
    chooser = torch.Generator().manual_seed(3)

    def pieces(most: int) -> list[int]:
        size = int(torch.randint(1, most, (1,), generator=chooser))
        return torch.randint(5, shape.vocabulary, (size,), generator=chooser).tolist()

    gap = 0.0
    with torch.inference_mode():
        for _ in range(8):
            batch = pair_batch(pieces(12), [pieces(shape.positions - 20) for _ in range(16)], specials)
            ours = cross(*batch)
            ids, mask, kinds = batch
            theirs = classifier(input_ids=ids, attention_mask=mask, token_type_ids=kinds).logits[:, 0]
            gap = max(gap, float((ours - theirs).abs().max()))
    return gap


def main() -> int:
    """Make the student, or (`--convert FOLDER`, for the process that has torch) only its Hugging Face
    form."""
    try:
        if sys.argv[1:2] == ["--convert"]:
            print(json.dumps(convert(Path(sys.argv[2])), indent=2))
        else:
            print(json.dumps(make_student(print).about, indent=2))
    except StudentFailed as error:
        print(f"student: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
