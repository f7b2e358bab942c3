"""sentence-transformers' CrossEncoder on ONNX Runtime, int8 as its own exporter makes it, behind gRPC."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
import torch
from sentence_transformers import CrossEncoder, export_dynamic_quantized_onnx_model

from benchmarks.peers.arguments import arguments
from benchmarks.peers.grpc_server import serve

MADE = "model_qint8_avx512_vnni.onnx"
"""Name that the exporter gives to what it makes for processors with AVX-512 VNNI."""


def exported(model: Path, folder: Path) -> Path:
    """The student as this peer's exporter quantises it, made once; a folder that CrossEncoder reads."""
    if not (folder / "onnx" / MADE).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in model.iterdir():
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
        plain = CrossEncoder(str(folder), device="cpu", backend="onnx", model_kwargs={"export": True})
        export_dynamic_quantized_onnx_model(plain, "avx512_vnni", str(folder))
    return folder


def main() -> None:
    """Serve until the process is ended."""
    settings = arguments()
    folder = exported(settings.model, settings.model.parent / "sentence_transformers_onnx_model")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model = CrossEncoder(
        str(folder),
        device="cpu",
        backend="onnx",
        activation_fn=torch.nn.Identity(),
        model_kwargs={
            "file_name": f"onnx/{MADE}",
            "provider": "CPUExecutionProvider",
            "session_options": options,
        },
    )

    def score(query: str, texts: Sequence[str]) -> Sequence[float]:
        found = model.predict([(query, text) for text in texts], batch_size=32, show_progress_bar=False)
        scores: list[float] = found.tolist()
        return scores

    serve(score, settings)


if __name__ == "__main__":
    main()
